"""The regions behind the boxes: label maps, the trees over them, and the pixels of one proposal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # numba is not needed to look at regions
    from .search import Hierarchy

FIELDS = ("regions.labels", "regions.merges", "regions.nodes")


def as_fields(found: Sequence[Hierarchy], kept: Any) -> dict[str, Any]:
    """Label maps, trees and, for each proposal, which node of which tree it is.

    kept: R, the place of each proposal in the row of all trees' nodes, one tree after the other.
    """
    maps: list[Any] = []
    map_of = []  # of each tree
    for i, hierarchy in enumerate(found):
        if not i or hierarchy.segments is not found[i - 1].segments:
            maps.append(hierarchy.labels)
        map_of.append(len(maps) - 1)
    merges = [np.insert(h.tree.merges.astype(np.int32), 0, i, 1) for i, h in enumerate(found)]  # n - 1 3
    starts = np.cumsum([0, *(len(h.tree.size) for h in found)])
    tree = np.searchsorted(starts, kept, "right") - 1
    nodes = np.stack([np.array(map_of)[tree], tree, kept - starts[tree]], 1)  # R 3
    return dict(zip(FIELDS, (np.stack(maps), np.concatenate(merges), nodes.astype(np.int32))))


def mask(fields: Mapping[str, Any], proposal: int) -> Any:
    """The pixels (h w bool, at the width that was searched) of a proposal's region.

    fields: with those of `as_fields`. IndexError if there is no such proposal.
    """
    which, tree, node = (int(n) for n in fields["regions.nodes"][proposal])
    merges = _merges(fields, tree)
    inside = np.zeros(2 * len(merges) + 1, bool)
    inside[node] = True
    return _handed_down(inside, merges, len(merges))[fields["regions.labels"][which]]


def cut(fields: Mapping[str, Any], which: int, tree: int, regions: int) -> Any:
    """The node of each pixel (h w int32) when a tree's merges have left so many regions; all of them, if it has less.

    fields: with those of `as_fields`. which: the label map that the tree stands on. ValueError for no regions.
    """
    if regions < 1:
        raise ValueError(f"a tree cannot be cut into {regions} regions")
    labels, merges = fields["regions.labels"][which], _merges(fields, tree)
    nodes = np.arange(2 * len(merges) + 1, dtype=np.int32)
    return _handed_down(nodes, merges, max(len(merges) + 1 - regions, 0))[labels]


def _merges(fields: Mapping[str, Any], tree: int) -> Any:
    merges = fields["regions.merges"]
    return merges[merges[:, 0] == tree, 1:]  # n - 1 2


def _handed_down(values: Any, merges: Any, count: int) -> Any:
    """What each segment (n) has of values (2n - 1, of nodes) when a node's goes to its children, in the first merges.

    A value that is not zero wins over a child's own.
    """
    segments = len(merges) + 1
    for i in range(count - 1, -1, -1):  # a node is above its children
        if values[segments + i]:
            values[merges[i]] = values[segments + i]
    return values[:segments]
