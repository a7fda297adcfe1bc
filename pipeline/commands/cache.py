"""`rcnn cache`: look into the cache, compare, check and clear it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UserError
from ..options import Allow, CacheDir, Json
from ..words import emit, say, store_of

if TYPE_CHECKING:
    from ...cache.store import Shelf, Store

One = Annotated[str, typer.Argument(help="A shelf, as `rcnn cache ls` names it, or its beginning.")]
Other = Annotated[str, typer.Argument(help="The shelf to compare it with.")]
OtherDir = Annotated[Path | None, typer.Option("--other", help="Cache folder of B. [default: that of A]")]
FOUND = 1  # exit status: not all is as it should be


def ls(cache: CacheDir = None, as_json: Json = False) -> None:
    """List what the cache holds: step, key, images, size."""
    from ..report import cache_rows, cache_table

    store = store_of(cache)
    rows = cache_rows(store)
    if as_json:
        print(json.dumps(rows))
    else:
        emit(cache_table(rows, store.root))


def show(
    name: One,
    image: Annotated[str | None, typer.Argument(help="An image id: show its newest entry.")] = None,
    cache: CacheDir = None,
) -> None:
    """Show how a shelf was made, or one image's entry in it."""
    shelf = shelf_of(store_of(cache), name)
    if image is None:
        print(json.dumps(shelf.about(), indent=1))
        return
    entry = shelf.find(image)
    if entry is None:
        raise UserError(f"{shelf.path.name} has no entry of image {image!r}")
    print(f"{entry.id}: {entry.path}")
    for field, slot in entry.slots.items():
        shape = " x ".join(map(str, slot.shape))
        print(f"  {field}: {slot.dtype} {shape} ({slot.nbytes:,} bytes)")


def why(
    a: Annotated[str, typer.Argument(metavar="A", help="A shelf, its beginning, or a RUN folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    cache: CacheDir = None,
    other: OtherDir = None,
    allow: Allow = [],
) -> None:
    """Say in one line what made two shelves, or two RUN folders, differ.

    Parameters, versions, files, the steps that are read, and the data that was learned from: which images, and whether
    it is their truth.
    """
    from .. import why as reasons

    store, others = store_of(cache), store_of(other or cache)
    if _is_run(a) and _is_run(b):
        print(reasons.why_runs(Path(a), Path(b), store, allow))
        return
    one, two = _shelf_like(store, a, b), _shelf_like(others, b, a)
    told = reasons.why(reasons.side(store, one), reasons.side(others, two))
    print(f"{one.path.name} -> {two.path.name}: {told}")


def diff(
    a: One,
    b: Other,
    image: Annotated[str | None, typer.Argument(help="An image id: compare its entries alone.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Images to name of each field, the furthest apart first.")] = 10,
    cache: CacheDir = None,
    other: OtherDir = None,
    as_json: Json = False,
) -> None:
    """Compare what two shelves hold, image by image: what a numeric change changed.

    Also what they learned. Entries of equal hash are not read.
    """
    from ...cache.diff import diff as compared
    from ..cache_tables import diff_table, worst_table

    one, two = shelf_of(store_of(cache), a), shelf_of(store_of(other or cache), b)
    found = compared(one, two, image, limit)
    if image is not None and not (found.fields or found.only_a or found.only_b or found.unread):
        raise UserError(f"neither {one.path.name} nor {two.path.name} has an entry of image {image!r}")
    if as_json:
        print(json.dumps(found.to_json()))
        return
    emit(diff_table(found, one.path.name, two.path.name))
    if found.worst:
        emit(worst_table(found.worst))


def verify(
    names: Annotated[
        list[str], typer.Argument(metavar="[SHELF]...", help="Shelves, or beginnings. [default: all]")
    ] = [],
    remove: Annotated[bool, typer.Option("--remove", help="Delete what is damaged, so that it is made again.")] = False,
    cache: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Read every file of the cache and name each that is damaged, and why; name also what is left over.

    Exit status 1 if anything is damaged or cannot be read. What is left over hurts nobody; `prune` removes it.
    """
    from ...cache import verify as checks
    from ..cache_tables import findings_table

    root = store_of(cache).root
    shelves = _folders(root, names)
    found = _damages(shelves, remove)
    found += [finding for shelf in shelves for finding in checks.leftovers(shelf)]
    found += [] if names else checks.strays(root)
    bad = [one for one in found if one.kind != "left over"]
    if as_json:
        print(json.dumps([{**one._asdict(), "path": str(one.path)} for one in found]))
    elif found:
        emit(findings_table(found, root))
    say(f"{len(shelves)} shelves read; {len(bad) or 'no'} files are damaged{' and removed' if bad and remove else ''}")
    if bad:
        raise typer.Exit(FOUND)


def prune(
    max_size: Annotated[str | None, typer.Option(help="Bytes the cache may keep: 20GB, 1.5T, 512MiB.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Remove shelves unused for so long: 12h, 30d, 6w.")] = None,
    step: Annotated[str | None, typer.Option(help="Remove of this step's shelves alone.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would go.")] = False,
    cache: CacheDir = None,
    as_json: Json = False,
) -> None:
    """Remove what was used longest ago until the cache is within a size.

    Never what a live run uses; what was learned goes last. Exit status 1 if more than --max-size is left.
    """
    from ...cache import layout
    from ...cache import prune as pruning
    from ..cache_tables import prune_table

    if max_size is None and older_than is None:
        raise UserError("say how much may stay: --max-size 20GB, or --older-than 30d")
    budget = pruning.parse_size(max_size) if max_size is not None else None
    age = pruning.parse_age(older_than) if older_than is not None else None
    root = store_of(cache).root
    if not root.is_dir():
        raise UserError(f"there is no cache {root}")
    steps = {layout.step_of(path) for path in layout.shelves(root)}
    if step is not None and step not in steps:
        raise UserError(f"{root} has no shelf of a step {step!r}; it has {', '.join(sorted(steps)) or 'none at all'}")
    done = pruning.prune(root, budget, older_than=age, step=step, dry_run=dry_run)
    if as_json:
        print(json.dumps(done.to_json()))
    else:
        emit(prune_table(done, root, dry_run=dry_run))
    if budget is not None and done.left > budget:
        raise typer.Exit(FOUND)


# -- what the words name -------------------------------------------------------------------------------------


def shelf_of(store: Store, name: str) -> Shelf:
    """The shelf of which this is the name, or the beginning of it. UserError if there is none or more than one."""
    found = [shelf for shelf in store.shelves() if shelf.path.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(shelf.path.name for shelf in found) or "none"
        raise UserError(f"{len(found)} shelves of {store.root} begin with {name!r}: {names}")
    return found[0]


def _is_run(name: str) -> bool:
    return (Path(name) / "recipe.json").is_file()


def _shelf_like(store: Store, name: str, other: str) -> Shelf:
    """A shelf; of a RUN folder that of the step that the other shelf is of."""
    from ..why import keys_of

    if not _is_run(name):
        return shelf_of(store, name)
    step, keys = shelf_of(store, other).about()["step"], keys_of(Path(name))
    if step not in keys:
        raise UserError(f"{name} keeps the keys of what it learned ({', '.join(keys) or 'nothing'}), not of {step}")
    shelf = store.shelf(step, keys[step])
    if not shelf.described():
        raise UserError(f"the cache {store.root} has no shelf {shelf.path.name} any more, from which {name} was made")
    return shelf


def _folders(root: Path, names: Sequence[str]) -> list[Path]:
    """The folders of the shelves that begin with these names, or of all. UserError for a name that fits none."""
    from ...cache.layout import shelves

    every = shelves(root)
    for name in names:
        if not any(path.name.startswith(name) for path in every):
            raise UserError(f"no shelf of {root} begins with {name!r}")
    return [path for path in every if not names or path.name.startswith(tuple(names))]


def _damages(shelves: Sequence[Path], remove: bool) -> list[Any]:
    """What is damaged on these shelves, with a bar of the bytes that are read; removed as it is found, if so wished."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from ...cache import verify as checks
    from ...cache.files import folder_size

    found = []
    columns = (TextColumn("{task.description:>20}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False), disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task("verify", total=sum(map(folder_size, shelves)))
        for shelf in shelves:
            bars.update(bar, description=shelf.name)
            for finding in checks.damages(shelf, lambda nbytes: bars.advance(bar, nbytes)):
                found.append(finding)
                if remove and finding.kind == "damaged":
                    checks.remove(finding)
    return found
