"""Hierarchical grouping (Uijlings et al., IJCV 2013, Algorithm 1): the two most similar neighbours merge, to the last.

A similarity is the sum of up to four, each in 0..1, kept as an integer of `ONE` to 1, so that it does not depend on the
order of additions nor on the machine:

    C colour   the intersection of the two colour histograms, each of sum 1
    T texture  that of the two texture histograms
    S size     1 - (size(a) + size(b)) / size(image)
    F fill     1 - (size(box around both) - size(a) - size(b)) / size(image)

Of pairs that are equally similar the first merges, in the order of their lowest segments.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...kernels import kernel
from .describe import COLOUR_BINS, TEXTURES, Regions

SHARES = (1 << 16) - 1  # the sum of a histogram at most: uint16 holds one of a single bin
ONE = 16 * SHARES
LAST = np.int64((1 << 32) - 1)


class Tree(NamedTuple):
    """The hierarchy over n segments: node i < n is a segment, node n + i came of merge i, the last is the image."""

    merges: Any  # n - 1 2 uint32, the two nodes of each merge
    box: Any  # 2n - 1 4 int32, x0 y0 x1 y1, half-open
    size: Any  # 2n - 1 int32, pixels


def group(regions: Regions, pairs: Any, measures: str, area: int) -> Tree:
    """Group neighbouring regions by the similarities whose letters `measures` holds, for instance "CTSF"."""
    colours = regions.counts.shape[1] * COLOUR_BINS // (COLOUR_BINS + TEXTURES)
    first = 0 if "C" in measures else colours
    last = regions.counts.shape[1] if "T" in measures else colours
    place = np.concatenate([regions.size[:, None], regions.box], 1)
    counts = regions.counts[:, first:last].copy()
    use = ONE / area * ("S" in measures), ONE / area * ("F" in measures)
    merges, places = merged(pairs, place, counts, colours - first, use)
    return Tree(merges, places[:, 1:], places[:, 0])


@kernel
def merged(pairs, place, counts, colours, use):  # type: ignore[no-untyped-def]
    """Merges, and where all nodes are (2n - 1 5: size and box). A region lives in the slot of its lowest segment.

    place: n 5, used up, as counts (n F, the colours first). use: what a pixel weighs in size and in fill, 0 if unused.

    Each slot has a list of its neighbours. An entry is one number: how like the neighbour is, then its slot, the lower
    the higher. So the highest entry is the best.
    """
    n = len(place)
    places, merges = np.empty((2 * n - 1, 5), np.int32), np.empty((n - 1, 2), np.uint32)
    places[:n] = place
    node = np.arange(n).astype(np.uint32)  # of each slot
    totals, shares = _histograms(counts, colours)
    likes = np.empty(len(pairs), np.int64)
    for e in range(len(pairs)):
        likes[e] = _similarity(pairs[e, 0], pairs[e, 1], place, shares, use)
    start, length, near, best = _lists(pairs, likes, n)
    end = np.uint32(2 * len(pairs))
    seen = np.zeros(n, np.uint32)
    for step in range(np.uint32(n - 1)):
        a = _highest(best)
        b = _slot(best[a])
        new = np.uint32(n + step)
        merges[step, 0], merges[step, 1] = node[a], node[b]
        _add(a, b, place, counts, totals, colours, shares)
        places[new] = place[a]
        node[a] = new
        best[a], best[b] = -1, -1
        if end + length[a] + length[b] > len(near):  # the lists in use fill half of it at most: they never grow in sum
            near, end = _packed(near, start, length)
        begin = end
        for old in (a, b):
            for i in range(start[old], start[old] + length[old]):
                c = _slot(near[i])
                if (c == a) | (c == b) | (seen[c] == new):
                    continue
                seen[c] = new
                like = _similarity(a, c, place, shares, use)
                near[end] = _entry(like, c)
                best[a] = max(best[a], near[end])
                end += np.uint32(1)
                entry = _entry(like, a)
                length[c], best[c] = _replace(near, start[c], length[c], a, b, entry)
        start[a], length[a], length[b] = begin, end - begin, 0
    return merges, places


@kernel
def _entry(like, slot):  # type: ignore[no-untyped-def]
    return like << np.int64(32) | (LAST - np.int64(slot))


@kernel
def _slot(entry):  # type: ignore[no-untyped-def]
    return np.uint32(LAST - (entry & LAST))


@kernel
def _histograms(counts, colours):  # type: ignore[no-untyped-def]
    """Of each region how many counts are of colour and of texture (n 2), and their shares."""
    totals, shares = np.empty((len(counts), 2), np.int64), np.empty(counts.shape, np.uint16)
    for i in range(np.uint32(len(counts))):
        totals[i, 0], totals[i, 1] = _sum(counts[i, :colours]), _sum(counts[i, colours:])
        _share(i, counts, totals, colours, shares)
    return totals, shares


@kernel
def _lists(pairs, likes, n):  # type: ignore[no-untyped-def]
    """The lists, one after the other in room for twice as much: where each starts, its length, entries, the best."""
    start, length = np.zeros(n, np.uint32), np.zeros(n, np.uint32)
    for e in range(len(pairs)):
        length[pairs[e, 0]] += np.uint32(1)
        length[pairs[e, 1]] += np.uint32(1)
    start[1:] = np.cumsum(length)[:-1]
    length[:] = 0
    near, best = np.empty(4 * len(pairs) + 64, np.int64), np.full(n, -1, np.int64)
    for e in range(len(pairs)):
        for i, j in ((pairs[e, 0], pairs[e, 1]), (pairs[e, 1], pairs[e, 0])):
            near[start[i] + length[i]] = _entry(likes[e], j)
            best[i] = max(best[i], near[start[i] + length[i]])
            length[i] += np.uint32(1)
    return start, length, near, best


@kernel
def _highest(best):  # type: ignore[no-untyped-def]
    """The first slot that is as like its best neighbour as any is."""
    top = np.int64(-1)
    for i in range(len(best)):
        top = max(top, best[i])
    for i in range(len(best)):
        if best[i] | LAST == top | LAST:  # whatever the neighbour's slot is
            return np.uint32(i)
    return np.uint32(0)


@kernel
def _add(a, b, place, counts, totals, colours, shares):  # type: ignore[no-untyped-def]
    """Slot a gets what is in b."""
    place[a, 0] += place[b, 0]
    for side in range(1, 3):
        place[a, side] = min(place[a, side], place[b, side])
        place[a, side + 2] = max(place[a, side + 2], place[b, side + 2])
    for part in range(2):
        totals[a, part] += totals[b, part]
    _increase(counts[a], counts[b])
    _share(a, counts, totals, colours, shares)


@kernel
def _packed(near, start, length):  # type: ignore[no-untyped-def]
    """The lists moved together, in a new array, and where they end."""
    fresh = np.empty_like(near)
    end = np.uint32(0)
    for i in range(len(start)):
        fresh[end : end + length[i]] = near[start[i] : start[i] + length[i]]
        start[i] = end
        end += length[i]
    return fresh, end


@kernel
def _share(i, counts, totals, colours, shares):  # type: ignore[no-untyped-def]
    """Counts to shares: each of the two histograms has the sum `SHARES`, less what is rounded down."""
    _scaled(counts[i, :colours], totals[i, 0], shares[i, :colours])
    _scaled(counts[i, colours:], totals[i, 1], shares[i, colours:])


@kernel
def _scaled(counts, total, out):  # type: ignore[no-untyped-def]
    scale = np.float32(SHARES) / np.float32(max(total, 1))
    for f in range(len(out)):
        out[f] = np.uint16(np.int32(np.float32(counts[f]) * scale))


@kernel
def _increase(counts, by):  # type: ignore[no-untyped-def]
    for f in range(len(counts)):
        counts[f] += by[f]


@kernel
def _sum(counts):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for f in range(len(counts)):
        total += counts[f]
    return total


@kernel
def _similarity(a, b, place, shares, use):  # type: ignore[no-untyped-def]
    """Of two slots, as an integer: `ONE` to 1."""
    common = np.int32(0)
    for f in range(shares.shape[1]):
        common = np.int32(common + np.int32(min(shares[a, f], shares[b, f])))
    like = np.int64(16) * common
    both = np.int64(place[a, 0]) + place[b, 0]
    if use[0] > 0:
        like += np.int64(ONE - both * use[0])
    if use[1] > 0:
        wide = max(place[a, 3], place[b, 3]) - min(place[a, 1], place[b, 1])
        high = max(place[a, 4], place[b, 4]) - min(place[a, 2], place[b, 2])
        like += np.int64(ONE - (np.int64(wide) * high - both) * use[1])
    return like


@kernel
def _replace(near, start, length, a, b, entry):  # type: ignore[no-untyped-def]
    """In a list both a and b make room for this entry; its new length, and the best of it."""
    at, top = start, entry
    for i in range(start, start + length):
        other = near[i]
        slot = _slot(other)
        near[at] = other
        if (slot != a) & (slot != b):
            at += np.uint32(1)
            top = max(top, other)
    near[at] = entry
    return at + np.uint32(1) - start, top
