"""Tables of what the commands of the cache found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .tables import Table, size

if TYPE_CHECKING:
    from ..cache.diff import Change, Difference, Tally
    from ..cache.prune import Pruned
    from ..cache.verify import Finding

NAMED = 5  # images that are named of those that one shelf alone has


def diff_table(found: Difference, a: str, b: str) -> Table:
    """A row a field: images alike and not, and how far apart."""
    head = ["field", "same bits", "differ", "other shape", "largest", "relative", "mean", "equal"]
    rows = [[name, *_tally_cells(tally)] for name, tally in found.fields.items()]
    return Table(f"{a} against {b}", head, rows, _diff_caption(found))


def _tally_cells(tally: Tally) -> list[str]:
    counts = [str(tally.identical), str(tally.differing), str(tally.other_shape or "")]
    if not tally.elements:
        return [*counts, "-", "-", "-", "-"]
    share = tally.equal / tally.elements
    return [*counts, _g(tally.largest), _g(tally.relative), _g(tally.total / tally.elements), _share(share)]


def _diff_caption(found: Difference) -> str:
    both = found.identical + found.differing
    parts = [f"{both} images in both, {found.identical} of them the same"] if both else ["no image is in both"]
    parts = ["of what was learned"] if all(found.learned) and not both else parts
    for side, images, fields in (("first", found.only_a, found.fields_a), ("second", found.only_b, found.fields_b)):
        if images:
            more = ", ..." if len(images) > NAMED else ""
            parts.append(f"in the {side} alone {len(images)}: {', '.join(images[:NAMED])}{more}")
        if fields:
            parts.append(f"fields of the {side} alone: {', '.join(fields)}")
    if found.learned[0] != found.learned[1]:
        parts.append(f"the {'first' if found.learned[0] else 'second'} alone has learned")
    parts += [f"not compared: {image}: {why}" for image, why in found.unread.items()]
    return "; ".join(parts)


def worst_table(changes: Sequence[Change]) -> Table:
    """The images that are furthest apart, field by field."""
    head = ["image", "field", "shape", "largest", "relative", "mean", "equal"]
    rows = [[one.image, one.field, _shape(one), *_change_cells(one)] for one in changes]
    caption = "largest and mean: of |a - b|; relative: the largest over the largest |a|; equal: share of elements"
    return Table("furthest apart", head, rows, caption, words=(1, 2))


def _change_cells(one: Change) -> list[str]:
    if not one.same_shape:
        return ["-", "-", "-", "-"]
    return [_g(one.largest), _g(one.relative), _g(one.mean), _share(one.equal)]


def _shape(one: Change) -> str:
    a, b = (" x ".join(map(str, shape)) or "1" for shape in one.shapes)
    kinds = "" if one.dtypes[0] == one.dtypes[1] else f" ({one.dtypes[0]} -> {one.dtypes[1]})"
    return (a if a == b else f"{a} -> {b}") + kinds


def findings_table(found: Sequence[Finding], root: Path) -> Table:
    """What `verify` found: a row a file."""
    rows = [[str(_below(one.path, root)), one.kind, one.why, size(one.nbytes)] for one in found]
    return Table(f"not as it should be in {root}", ["file", "kind", "why", "size"], rows, words=(1, 2))


def _below(path: Path, root: Path) -> Path:
    return path.relative_to(root) if root in path.parents else path


def prune_table(pruned: Pruned, root: Path, *, dry_run: bool) -> Table:
    """What `prune` removed, or would remove: a row a shelf, one for what was left over, and the sum."""
    rows = [[one.shelf, str(one.images), size(one.nbytes), "yes" if one.whole else ""] for one in pruned.removed]
    if pruned.leftovers:
        nbytes = sum(one.nbytes for one in pruned.leftovers)
        rows.append([f"left over: {len(pruned.leftovers)} files", "", size(nbytes), ""])
    total = sum(one.nbytes for one in pruned.removed) + sum(one.nbytes for one in pruned.leftovers)
    rows.append(["in all", str(sum(one.images for one in pruned.removed)), size(total), ""])
    left = f"{size(pruned.left)} of {size(pruned.before)} {'would be' if dry_run else 'are'} left"
    used = f"; {size(pruned.in_use)} are in use" if pruned.in_use else ""
    return Table(
        f"{'would go' if dry_run else 'gone'} from {root}", ["shelf", "images", "size", "whole"], rows, left + used
    )


def _g(value: float) -> str:
    return f"{value:.3g}"


def _share(value: float) -> str:
    """A share in percent; never 100 % of what is not whole."""
    percent = f"{100 * value:.2f}"
    return f"{'> 99.99' if percent == '100.00' and value < 1 else percent} %"
