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

from .compiled import kernel
from .describe import COLOUR_BINS, TEXTURES, Regions

SHARES = (1 << 16) - 1  # the sum of a histogram at most: uint16 holds one of a single bin
ONE = 16 * SHARES


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
    return Tree(
        *merged(pairs, *regions, first, colours, max(first, last), "S" in measures, "F" in measures, ONE / area)
    )


@kernel
def merged(pairs, size, box, counts, first, colours, last, by_size, by_fill, per_pixel):  # type: ignore[no-untyped-def]
    """Merges, boxes and sizes of a tree. A region lives in the slot of its lowest segment."""
    n = len(size)
    sizes, boxes = np.empty(2 * n - 1, np.int32), np.empty((2 * n - 1, 4), np.int32)
    merges = np.empty((n - 1, 2), np.uint32)
    sizes[:n], boxes[:n] = size, box
    node = np.arange(n).astype(np.uint32)  # of each slot
    counts = counts[:, first:last].copy()
    totals, shares = _histograms(counts, max(colours - first, 0))
    likes = np.empty(len(pairs), np.int32)
    for e in range(len(pairs)):
        likes[e] = _similarity(pairs[e, 0], pairs[e, 1], node, sizes, boxes, shares, by_size, by_fill, per_pixel)
    start, length, near, likeness, best, partner = _lists(pairs, likes, n)
    end = np.uint32(2 * len(pairs))
    seen = np.zeros(n, np.uint32)
    for step in range(np.uint32(n - 1)):
        a = _highest(best)
        b = partner[a]
        new = np.uint32(n + step)
        merges[step, 0], merges[step, 1] = node[a], node[b]
        _unite(a, b, new, node, sizes, boxes)
        _add(a, b, counts, totals, max(colours - first, 0), shares)
        best[a], best[b] = -1, -1
        if end + length[a] + length[b] > len(near):  # the lists in use fill half of it at most: they never grow in sum
            near, likeness, end = _packed(near, likeness, start, length)
        begin = end
        for old in (a, b):
            for place in range(start[old], start[old] + length[old]):
                c = near[place]
                if (c == a) | (c == b) | (seen[c] == new):
                    continue
                seen[c] = new
                like = _similarity(a, c, node, sizes, boxes, shares, by_size, by_fill, per_pixel)
                near[end], likeness[end] = c, like
                end += np.uint32(1)
                if _beats(like, c, best[a], partner[a]):
                    best[a], partner[a] = like, c
                length[c] = _replace(near, likeness, start[c], length[c], a, b, like)
                if (partner[c] == a) | (partner[c] == b):
                    best[c] = -1
                    for other in range(start[c], start[c] + length[c]):
                        if _beats(likeness[other], near[other], best[c], partner[c]):
                            best[c], partner[c] = likeness[other], near[other]
                elif _beats(like, a, best[c], partner[c]):
                    best[c], partner[c] = like, a
        start[a], length[a], length[b] = begin, end - begin, 0
    return merges, boxes, sizes


@kernel
def _histograms(counts, colours):  # type: ignore[no-untyped-def]
    """Of each region how many counts are of colour and of texture (n 2), and their shares."""
    totals, shares = np.empty((len(counts), 2), np.int32), np.empty(counts.shape, np.uint16)
    for i in range(np.uint32(len(counts))):
        for part, first, last in ((0, 0, colours), (1, colours, counts.shape[1])):
            total = np.int32(0)
            for f in range(first, last):
                total = np.int32(total + counts[i, f])
            totals[i, part] = total
        _share(i, counts, totals, colours, shares)
    return totals, shares


@kernel
def _lists(pairs, likes, n):  # type: ignore[no-untyped-def]
    """Lists of neighbouring slots and how like they are, in a row: where each starts, its length, the best of each."""
    start, length = np.zeros(n, np.uint32), np.zeros(n, np.uint32)
    for e in range(len(pairs)):
        length[pairs[e, 0]] += np.uint32(1)
        length[pairs[e, 1]] += np.uint32(1)
    start[1:] = np.cumsum(length)[:-1]
    length[:] = 0
    near, likeness = np.empty(4 * len(pairs) + 64, np.uint32), np.empty(4 * len(pairs) + 64, np.int32)
    best, partner = np.full(n, -1, np.int32), np.zeros(n, np.uint32)
    for e in range(len(pairs)):
        for i, j in ((pairs[e, 0], pairs[e, 1]), (pairs[e, 1], pairs[e, 0])):
            near[start[i] + length[i]], likeness[start[i] + length[i]] = j, likes[e]
            length[i] += np.uint32(1)
            if _beats(likes[e], j, best[i], partner[i]):
                best[i], partner[i] = likes[e], j
    return start, length, near, likeness, best, partner


@kernel
def _beats(like, j, best, partner):  # type: ignore[no-untyped-def]
    """Whether slot j is a better partner than the best one yet; of equals the lowest is."""
    return (like > best) | ((like == best) & (j < partner))


@kernel
def _highest(best):  # type: ignore[no-untyped-def]
    """The first slot of the highest."""
    slot, top = np.uint32(0), best[0]
    for i in range(len(best)):
        if best[i] > top:
            slot, top = np.uint32(i), best[i]
    return slot


@kernel
def _unite(a, b, new, node, sizes, boxes):  # type: ignore[no-untyped-def]
    """Node `new` of the regions in slots a and b; it lives in a."""
    sizes[new] = sizes[node[a]] + sizes[node[b]]
    for side in range(2):
        boxes[new, side] = min(boxes[node[a], side], boxes[node[b], side])
        boxes[new, side + 2] = max(boxes[node[a], side + 2], boxes[node[b], side + 2])
    node[a] = new


@kernel
def _add(a, b, counts, totals, colours, shares):  # type: ignore[no-untyped-def]
    for part in range(2):
        totals[a, part] += totals[b, part]
    for f in range(counts.shape[1]):
        counts[a, f] += counts[b, f]
    _share(a, counts, totals, colours, shares)


@kernel
def _packed(near, likeness, start, length):  # type: ignore[no-untyped-def]
    """The lists moved together, in new arrays, and where they end."""
    fresh, alike = np.empty_like(near), np.empty_like(likeness)
    end = np.uint32(0)
    for i in range(len(start)):
        fresh[end : end + length[i]] = near[start[i] : start[i] + length[i]]
        alike[end : end + length[i]] = likeness[start[i] : start[i] + length[i]]
        start[i] = end
        end += length[i]
    return fresh, alike, end


@kernel
def _share(i, counts, totals, colours, shares):  # type: ignore[no-untyped-def]
    """Counts to shares: each of the two histograms has the sum `SHARES`, less what is rounded down."""
    for part, first, last in ((0, 0, colours), (1, colours, counts.shape[1])):
        scale = np.float32(SHARES) / np.float32(max(totals[i, part], 1))
        for f in range(first, last):
            shares[i, f] = np.uint16(np.int32(np.float32(counts[i, f]) * scale))


@kernel
def _similarity(a, b, node, sizes, boxes, shares, by_size, by_fill, per_pixel):  # type: ignore[no-untyped-def]
    common = np.int32(0)
    for f in range(shares.shape[1]):
        common = np.int32(common + np.int32(min(shares[a, f], shares[b, f])))
    like = np.int64(16) * common
    i, j = node[a], node[b]
    both = np.int64(sizes[i]) + sizes[j]
    if by_size:
        like += np.int64(ONE - both * per_pixel)
    if by_fill:
        wide = max(boxes[i, 2], boxes[j, 2]) - min(boxes[i, 0], boxes[j, 0])
        high = max(boxes[i, 3], boxes[j, 3]) - min(boxes[i, 1], boxes[j, 1])
        like += np.int64(ONE - (np.int64(wide) * high - both) * per_pixel)
    return np.int32(like)


@kernel
def _replace(near, likeness, start, length, a, b, like):  # type: ignore[no-untyped-def]
    """In a list of neighbours b goes, and a is as alike as said; its new length."""
    found = False
    place = start
    while place < start + length:
        if (near[place] == a) | (near[place] == b):
            if found:
                length -= np.uint32(1)
                near[place], likeness[place] = near[start + length], likeness[start + length]
                continue
            found = True
            near[place], likeness[place] = a, like
        place += np.uint32(1)
    return length
