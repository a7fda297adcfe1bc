"""The regions behind the boxes: label maps, the trees over them, and the pixels of one proposal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # numba is not needed to look at regions
    from .search import Hierarchy

REGION_FIELDS = ("regions.labels", "regions.merges", "regions.nodes")


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
    return dict(zip(REGION_FIELDS, (np.stack(maps), np.concatenate(merges), nodes.astype(np.int32))))


def mask(fields: Mapping[str, Any], proposal: int) -> Any:
    """The pixels (h w bool, at the width that was searched) of a proposal's region.

    fields: with those of `as_fields`. IndexError if there is no such proposal.
    """
    which, tree, node = (int(n) for n in fields["regions.nodes"][proposal])
    merges = _merges(fields, tree)
    return (_nodes_after(merges, node - len(merges)) == node)[fields["regions.labels"][which]]


def cut(fields: Mapping[str, Any], which: int, tree: int, count: int) -> Any:
    """The node of each pixel (h w int32) when a tree's merges have left `count` regions; all, if it has fewer.

    fields: with those of `as_fields`. which: the label map that the tree stands on. ValueError for less than one
    region, and if the tree stands on another map.
    """
    labels, merges = fields["regions.labels"][which], _merges(fields, tree)
    if count < 1:
        raise ValueError(f"a tree cannot be cut into {count} regions")
    if labels.max() != len(merges):
        raise ValueError(f"tree {tree} has {len(merges) + 1} segments, map {which} has {labels.max() + 1}")
    return _nodes_after(merges, len(merges) + 1 - count)[labels]


def _merges(fields: Mapping[str, Any], tree: int) -> Any:
    merges = fields["regions.merges"]
    return merges[merges[:, 0] == tree, 1:]  # n - 1 2


def _nodes_after(merges: Any, count: int) -> Any:
    """The node that each segment (n int32) is part of after the first `count` merges; none if that is under 1."""
    nodes = np.arange(2 * len(merges) + 1, dtype=np.int32)
    for i in range(count - 1, -1, -1):  # a node is above its children
        nodes[merges[i]] = nodes[len(merges) + 1 + i]
    return nodes[: len(merges) + 1]
