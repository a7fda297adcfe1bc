"""The hierarchies of selective search over one image: each colour space, k and set of similarities gives one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from . import compiled
from .colours import as_rgb, in_colour, smoothed
from .describe import describe, united
from .grouping import Tree, group
from .segments import Segments, channels, segmentations

_ready = False


class Hierarchy(NamedTuple):
    """The regions that one colour space, k and set of similarities give: a tree over segments made of atoms."""

    colour: str
    k: float
    measures: str
    atoms: Any  # H W uint32, of the colour space
    segments: Segments
    tree: Tree

    @property
    def labels(self) -> Any:
        """H W int32: the segment of each pixel, which is a leaf of the tree."""
        return self.segments.of_atom[self.atoms].astype(np.int32)


def hierarchies(
    image: Any, colours: Sequence[str], similarities: Sequence[str], ks: Sequence[float], threads: int = 1
) -> list[Hierarchy]:
    """Hierarchies of an image (H W 3 uint8 RGB), by colour space, then k in rising order, then similarities.

    colours: keys of `COLOURS`. similarities: strings of the letters C, T, S, F. ks: also the pixels of the smallest
    segment, as in the authors' code. threads: for colour spaces; the result does not depend on them.
    ValueError if it is no such image; other dtypes will do if they hold whole numbers from 0 to 255.
    """
    ready()
    one = partial(in_one_colour, smoothed(as_rgb(image)), similarities=similarities, ks=sorted(ks))
    if threads == 1 or len(colours) == 1:
        return [*chain.from_iterable(map(one, colours))]
    with ThreadPoolExecutor(threads) as pool:
        return [*chain.from_iterable(pool.map(one, colours))]


def ready() -> None:
    """Compile the kernels, or read them from disk, before they are needed; once in a process."""
    global _ready  # noqa: PLW0603
    if not _ready:
        with compiled.told():
            if not _ready:
                noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
                in_one_colour(noise, "RGB", ("CTSF",), (4, 8))
                _ready = True


def in_one_colour(image: Any, colour: str, similarities: Sequence[str], ks: Sequence[float]) -> list[Hierarchy]:
    """The hierarchies of a smoothed image in one colour space; ks in rising order."""
    planes = channels(in_colour(image, colour))
    atoms, found = segmentations(planes, [(k, max(round(k), 1)) for k in ks])
    of_atoms = describe(planes, atoms, len(found[0].of_atom))
    out = []
    for k, segments in zip(ks, found):
        regions = united(planes, atoms, of_atoms, segments.of_atom, segments.n)
        for measures in similarities:
            tree = group(regions, segments.pairs, measures, atoms.size)
            out.append(Hierarchy(colour, k, measures, atoms, segments, tree))
    return out
