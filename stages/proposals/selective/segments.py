"""Graph-based image segmentation (Felzenszwalb and Huttenlocher, IJCV 2004), at several k for little more than one.

The graph joins each pixel with its eight neighbours; an edge weighs the Euclidean distance of two smoothed colours. The
edges are visited in rising weight; the one between components A and B joins them if it weighs at most
min(Int(A) + k / |A|, Int(B) + k / |B|), where Int is the heaviest edge that a component was joined by. In a second
round, components of fewer than `smallest` pixels join the neighbour of the lightest edge.

Where this differs from the paper, for speed (and for no worse proposals: benchmarks/selective_search.py):

- Weights are rounded down to 1 / `LEVELS` of a grey level, so that edges are sorted by counting.
- Edges that weigh `FLOOR` or less join right away, as plain connected components; diagonal ones that do are left out,
  as two pixels like that are nearly always joined around the corner.
- Only the smallest k starts from pixels. Each larger one starts from its components, before the second round, as if
  each were a pixel of that size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...kernels import kernel

LEVELS = 2  # of weight, a grey level
FLOOR = 4.0  # grey levels
HEAVIEST = int(LEVELS * 255 * 3**0.5) + 1
OFF = HEAVIEST + 1  # where a pixel has no such neighbour
RECENT_BITS = 12  # of the table of pairs seen lately
HASH = np.uint64(0x9E3779B97F4A7C15)
WAYS = 4  # to the right, down, down right, down left


class Segments(NamedTuple):
    """One segmentation of an image: what each atom belongs to, and which segments touch."""

    of_atom: Any  # A uint32, 0..n - 1
    pairs: Any  # P 2 uint32, neighbours, each pair once, the lighter edge first
    n: int


def channels(image: Any) -> Any:
    """C H W of an image H W C, or H W."""
    import cv2

    return np.stack(cv2.split(image))


def segmentations(planes: Any, ks: Sequence[tuple[float, int]]) -> tuple[Any, list[Segments]]:
    """Atoms (H W uint32, numbered from 0) of smoothed channels (C H W uint8), and a segmentation for each of `ks`.

    ks: k and the pixels of the smallest segment, in rising k. An atom is a set of pixels that no segmentation parts.
    """
    weights = np.empty((planes.shape[1], WAYS, planes.shape[2]), np.uint16)
    weigh(planes, weights)
    nodes = flat_zones(weights)
    thin(weights, nodes)
    edges, start = sorted_edges(weights)
    labels, size, pairs, begin = components(nodes, edges, start, weights.shape, np.float32(ks[0][0]))
    found = []
    for i, (k, smallest) in enumerate(ks):
        if i:
            own, sizes = grown(pairs, begin, size, np.float32(k))
            segment, touching, count = absorbed(own[pairs], sizes, smallest)
            segment = segment[own]
        else:
            segment, touching, count = absorbed(pairs, size, smallest)
        found.append(Segments(segment, touching, count))
    atom, first = intersection(np.stack([segments.of_atom for segments in found]))
    return renamed(labels, atom), [Segments(s.of_atom[first], s.pairs, s.n) for s in found]


@kernel
def intersection(partitions):  # type: ignore[no-untyped-def]
    """The atoms (N uint32, numbered by their first member) that partitions (P N uint32) agree on, and those members."""
    atoms = np.zeros(partitions.shape[1], np.uint32)
    first = np.zeros(partitions.shape[1], np.int64)
    for other in partitions:
        count = np.uint32(0)
        slots = 1024
        while slots < 4 * len(atoms):
            slots *= 2
        seen, name_of = np.zeros(slots, np.uint64), np.zeros(slots, np.uint32)
        for i in range(len(atoms)):
            name = (np.uint64(atoms[i]) << np.uint64(32) | np.uint64(other[i])) + np.uint64(1)
            at = (name * HASH) >> np.uint64(32) & np.uint64(slots - 1)
            while seen[at] != 0 and seen[at] != name:
                at = (at + np.uint64(1)) & np.uint64(slots - 1)
            if seen[at] == 0:
                seen[at], name_of[at] = name, count
                first[count] = i
                count += np.uint32(1)
            atoms[i] = name_of[at]
    return atoms, first[:count].copy()


@kernel
def weigh(planes, weights):  # type: ignore[no-untyped-def]
    """Weights (H 4 W uint16, in levels) of the edges to the right, down, down right and down left; `OFF` at borders."""
    channels, height, width = planes.shape
    for y in range(height):
        for way in range(WAYS):
            below, aside = (0, 1) if way == 0 else (1, (0, 1, -1)[way - 1])
            out = weights[y, way]
            first, last = max(0, -aside), width - max(0, aside)
            if y + below == height or first >= last:
                out[:] = OFF
                continue
            out[:first] = OFF
            out[last:] = OFF
            here, there = planes[:, y, first:last], planes[:, y + below, first + aside : last + aside]
            if channels == 3:
                _weigh_three(here[0], here[1], here[2], there[0], there[1], there[2], out[first:last])
            else:
                _weigh_one(here[0], there[0], out[first:last])


@kernel
def _weigh_three(a, b, c, d, e, f, out):  # type: ignore[no-untyped-def]
    for x in range(len(out)):
        u = np.float32(a[x]) - np.float32(d[x])
        v = np.float32(b[x]) - np.float32(e[x])
        w = np.float32(c[x]) - np.float32(f[x])
        out[x] = np.uint16(np.int32(np.float32(LEVELS) * np.sqrt(u * u + v * v + w * w)))


@kernel
def _weigh_one(a, b, out):  # type: ignore[no-untyped-def]
    for x in range(len(out)):
        out[x] = np.uint16(LEVELS * abs(np.int16(a[x]) - np.int16(b[x])))


@kernel
def flat_zones(weights):  # type: ignore[no-untyped-def]
    """The first pixel (H*W uint32) of the component that edges right and down of at most `FLOOR` join each pixel to."""
    height, _, width = weights.shape
    floor = np.uint16(FLOOR * LEVELS)
    parent = np.empty(height * width, np.uint32)
    for y in range(height):
        p = np.uint32(y * width)
        run = p
        for x in range(width):
            run = run if (x > 0) and (weights[y, 0, x - 1] <= floor) else p
            parent[p] = run
            p += np.uint32(1)
    for y in range(1, height):
        p = np.uint32(y * width)
        joined = (p, p)  # the last two runs: not again for each pixel that they share
        for x in range(width):
            if weights[y - 1, 1, x] <= floor:
                runs = parent[p], parent[p - np.uint32(width)]
                if runs != joined:
                    joined = runs
                    a, b = _root(parent, runs[0]), _root(parent, runs[1])
                    parent[max(a, b)] = min(a, b)
            p += np.uint32(1)
    for pixel in range(height * width):
        parent[pixel] = parent[parent[pixel]]
    return parent


@kernel
def thin(weights, zones):  # type: ignore[no-untyped-def]
    """Set to `OFF` edges within a flat zone, and most that are no lighter than another of the same pixel to that zone.

    It changes no result: where an edge does not join two components, one of them never grows again (the paper's lemma
    1); in the second round sizes only grow. Of equal edges the first in the order of `WAYS` stays.
    """
    height, _, width = weights.shape
    if width < 3:
        return
    inner = slice(1, width - 1)  # the borders stay as they are
    for y in range(height - 1):
        row, below = zones[y * width : (y + 1) * width], zones[(y + 1) * width : (y + 2) * width]
        here, right, down, down_right, down_left = row[inner], row[2:], below[inner], below[2:], below[: width - 2]
        a, b, c, d = weights[y, 0][inner], weights[y, 1][inner], weights[y, 2][inner], weights[y, 3][inner]
        for edge, there in ((a, right), (b, down), (c, down_right), (d, down_left)):
            _drop_within(edge, here, there)
        _drop_heavier(c, down_right, b, down, 0)
        _drop_heavier(c, down_right, a, right, 0)
        _drop_heavier(d, down_left, b, down, 0)
        _drop_heavier(b, down, c, down_right, 1)
        _drop_heavier(b, down, d, down_left, 1)
        _drop_heavier(a, right, c, down_right, 1)


@kernel
def _drop_within(weight, here, there):  # type: ignore[no-untyped-def]
    """Drop edges that lead to the zone they come from."""
    for x in range(len(weight)):
        weight[x] = np.uint16(OFF) if here[x] == there[x] else weight[x]


@kernel
def _drop_heavier(weight, there, rival, beside, margin):  # type: ignore[no-untyped-def]
    """Drop edges to the zone that a rival leads to too (beside), heavier by `margin` or more.

    A rival of `FLOOR` or less is no edge any more.
    """
    for x in range(len(weight)):
        lighter = (rival[x] > np.uint16(FLOOR * LEVELS)) & (rival[x] + np.uint16(margin) <= weight[x])
        weight[x] = np.uint16(OFF) if (there[x] == beside[x]) & lighter else weight[x]


@kernel
def sorted_edges(weights):  # type: ignore[no-untyped-def]
    """Edges (4 * pixel + way, uint32) above `FLOOR` in rising weight, and where those of each weight start."""
    height, _, width = weights.shape
    found, weight_of = np.empty(weights.size + 1, np.uint32), np.empty(weights.size + 1, np.uint16)
    n = np.uint64(0)
    for y in range(height):
        for way in range(WAYS):
            n += _collect(weights[y, way], np.uint32(4 * y * width + way), found[n:], weight_of[n:])
    count = np.zeros((WAYS, OFF + 1), np.uint32)  # apart: an increment need not wait for the one before
    for i in range(n):
        count[found[i] & np.uint32(3), weight_of[i]] += np.uint32(1)
    start = np.zeros(OFF + 1, np.uint64)
    for level in range(OFF):
        start[level + 1] = start[level]
        for way in range(WAYS):
            start[level + 1] += count[way, level]
    at = start.copy()
    edges = np.empty(n, np.uint32)
    for i in range(n):
        edges[at[weight_of[i]]] = found[i]
        at[weight_of[i]] += np.uint64(1)
    return edges, start


@kernel
def _collect(weights, edge, found, weight_of):  # type: ignore[no-untyped-def]
    """Append a row's edges above `FLOOR`, numbered from `edge`, and their weights; how many there are."""
    n = np.uint64(0)
    for x in range(len(weights)):
        found[n], weight_of[n] = edge, weights[x]  # written over where it is not wanted: no branch
        n += np.uint64((np.uint16(FLOOR * LEVELS) < weights[x]) & (weights[x] < OFF))
        edge += np.uint32(4)
    return n


@kernel
def components(parent, edges, start, shape, k):  # type: ignore[no-untyped-def]
    """The first round from flat zones: components (H W uint32), their sizes, and the lightest edge of each pair left.

    parent: as `flat_zones` gives it; it is used up. edges, start: as `sorted_edges` gives them. What is left comes as
    ends (P 2) and where those of each weight start.
    """
    height, _, width = shape
    pixels = np.uint32(height * width)
    ahead = np.array((1, width, width + 1, width - 1)).astype(np.uint32)
    size = np.zeros(pixels, np.int32)
    for p in range(pixels):
        size[parent[p]] += 1
    limit = np.empty(pixels, np.int32)  # the heaviest level that a component may be joined by
    for p in range(pixels):
        limit[p] = np.int32((np.float32(FLOOR) * (size[p] > 1) + k / np.float32(max(size[p], 1))) * LEVELS)
    left = np.empty(len(edges) + 1, np.uint32)
    begin = np.zeros_like(start)
    n = np.uint64(0)
    lately = np.zeros(1 << RECENT_BITS, np.uint64)  # pairs that have an edge left already, as far as this remembers
    for level in range(len(start) - 1):
        begin[level] = n
        for e in range(start[level], start[level + 1]):
            edge = edges[e]
            p = edge >> np.uint32(2)
            q = np.uint32(p + ahead[edge & np.uint32(3)])
            a, b = parent[parent[p]], parent[parent[q]]
            if (parent[a] != a) | (parent[b] != b):
                a, b = _root(parent, a), _root(parent, b)
            parent[p], parent[q] = a, b
            if a == b:
                continue
            a, b = min(a, b), max(a, b)
            if (level <= limit[a]) & (level <= limit[b]):
                parent[b] = a
                size[a] += size[b]
                limit[a] = np.int32(level + k / np.float32(size[a]) * LEVELS)
                continue
            name = np.uint64(a) << np.uint64(32) | np.uint64(b)
            place = (name * HASH) >> np.uint64(64 - RECENT_BITS)
            left[n] = edge
            n += np.uint64(lately[place] != name)
            lately[place] = name
    begin[len(start) - 1] = n
    own, size = _numbered(parent, size)
    ends = np.empty((n, 2), np.uint32)
    for e in range(n):
        ends[e, 0] = left[e] >> np.uint32(2)
        ends[e, 1] = ends[e, 0] + ahead[left[e] & np.uint32(3)]
    pairs, begin = _once(own, ends, begin)
    return own.reshape(height, width), size, pairs, begin


@kernel
def _root(parent, node):  # type: ignore[no-untyped-def]
    """The component of a node: union-find with paths halved."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@kernel
def _numbered(parent, size):  # type: ignore[no-untyped-def]
    """The component (N uint32) of each node, numbered by its first, and their sizes. No parent is above its child."""
    own = np.empty(len(parent), np.uint32)
    sizes = np.empty(len(parent), np.int32)
    count = np.uint32(0)
    for node in range(np.uint32(len(parent))):
        if parent[node] == node:
            own[node] = count
            sizes[count] = size[node]
            count += np.uint32(1)
        else:
            own[node] = own[parent[node]]
    return own, sizes[:count].copy()


@kernel
def renamed(labels, names):  # type: ignore[no-untyped-def]
    """names[labels], H W uint32."""
    out = np.empty_like(labels)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            out[y, x] = names[labels[y, x]]
    return out


@kernel
def grown(ends, start, size, k):  # type: ignore[no-untyped-def]
    """The first round over components, none with an Int: of each (N) its own, and their sizes."""
    parent = np.arange(len(size)).astype(np.uint32)
    size = size.copy()
    limit = k / size.astype(np.float32) * LEVELS
    for level in range(len(start) - 1):
        for e in range(start[level], start[level + 1]):
            a, b = _root(parent, ends[e, 0]), _root(parent, ends[e, 1])
            if (a != b) & (level <= limit[a]) & (level <= limit[b]):
                a, b = min(a, b), max(a, b)
                parent[b] = a
                size[a] += size[b]
                limit[a] = level + k / np.float32(size[a]) * LEVELS
    return _numbered(parent, size)


@kernel
def absorbed(ends, size, smallest):  # type: ignore[no-untyped-def]
    """The second round: of each component (N) its segment, the pairs of these (P 2), and their number."""
    parent = np.arange(len(size)).astype(np.uint32)
    size = size.copy()
    for e in range(len(ends)):
        a, b = _root(parent, ends[e, 0]), _root(parent, ends[e, 1])
        if (a != b) & ((size[a] < smallest) | (size[b] < smallest)):
            a, b = min(a, b), max(a, b)
            parent[b] = a
            size[a] += size[b]
    own, size = _numbered(parent, size)
    pairs = _once(own, ends, np.array([0, len(ends)]))[0]
    return own, pairs, len(size)


@kernel
def _once(own, ends, start):  # type: ignore[no-untyped-def]
    """Edges between different components, the first of each pair alone, and where those of each weight start.

    own: the component of each node; ends (E 2), start: edges between nodes.
    """
    seen = np.zeros(4096, np.uint64)  # an open-addressing set of pairs, half full at most
    pairs = np.empty((len(ends), 2), np.uint32)
    begin = np.zeros_like(start)
    n = 0
    for level in range(len(start) - 1):
        begin[level] = n
        for e in range(start[level], start[level + 1]):
            a, b = own[ends[e, 0]], own[ends[e, 1]]
            a, b = min(a, b), max(a, b)
            if a == b or not _add(seen, a, b):
                continue
            pairs[n, 0], pairs[n, 1] = a, b
            n += 1
            if 2 * n > len(seen):
                seen = np.zeros(16 * len(seen), np.uint64)
                for i in range(n):
                    _add(seen, pairs[i, 0], pairs[i, 1])
    begin[len(start) - 1] = n
    return pairs[:n].copy(), begin


@kernel
def _add(seen, a, b):  # type: ignore[no-untyped-def]
    """Whether the set lacked the pair a < b, which is kept as a number above 0."""
    name = np.uint64(a) << np.uint64(32) | np.uint64(b)
    last = np.uint64(len(seen) - 1)
    at = (name * HASH) >> np.uint64(32) & last
    while seen[at] != 0:
        if seen[at] == name:
            return False
        at = (at + np.uint64(1)) & last
    seen[at] = name
    return True
