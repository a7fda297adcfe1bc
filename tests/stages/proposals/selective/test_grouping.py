"""Histograms by the definition; the tree of Algorithm 1 by brute force; what any tree must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rcnn.stages.proposals.selective.colours import smoothed
from rcnn.stages.proposals.selective.describe import (
    AXES,
    COLOUR_BINS,
    EVERY,
    STEP,
    TEXTURE_BINS,
    TEXTURES,
    Regions,
    describe,
    united,
)
from rcnn.stages.proposals.selective.grouping import ONE, SHARES, group
from rcnn.stages.proposals.selective.segments import Segments, channels, segmentations


def scene(seed: int, channels_: int = 3) -> Any:
    """C H W uint8: noise over patches."""
    rng = np.random.default_rng(seed)
    patches = np.kron(rng.integers(0, 230, (5, 7, 3)), np.ones((9, 8, 1)))
    image = (patches + rng.integers(0, 25, patches.shape)).astype(np.uint8)
    return channels(smoothed(image))[:channels_]


def described(planes: Any, atoms: Any, found: Segments) -> Regions:
    return united(planes, atoms, describe(planes, atoms, len(found.of_atom)), found.of_atom, found.n)


def plain_counts(planes: Any, labels: Any, region: int, every: int = EVERY) -> Any:
    """The F counts of a region, pixel by pixel."""
    count, height, width = planes.shape
    out = np.zeros(count * (COLOUR_BINS + TEXTURES), int)
    p = planes.astype(np.float32)
    for y in range(0, height, every):
        for x in range(y // every % every, width, every):
            if labels[y, x] != region:
                continue
            for c in range(count):
                out[c * COLOUR_BINS + int(planes[c, y, x]) * COLOUR_BINS // 256] += 1
                per_step = np.float32(1) / np.float32(STEP)
                dx = (p[c, y, min(x + 1, width - 1)] - p[c, y, max(x - 1, 0)]) * per_step
                dy = (p[c, min(y + 1, height - 1), x] - p[c, max(y - 1, 0), x]) * per_step
                slanted = np.float32(0.5**0.5)
                first = count * COLOUR_BINS + c * TEXTURES
                for axis, along in enumerate((dx, dy, (dx + dy) * slanted, (dx - dy) * slanted)):
                    for way, value in enumerate((along, -along)):
                        bin = min(int(max(value, 0)), TEXTURE_BINS - 1)
                        out[first + (2 * axis + way) * TEXTURE_BINS + bin] += 1
    return out


@pytest.mark.parametrize("count", [1, 3])
def test_descriptions_by_the_definition(count: int) -> None:
    planes = scene(0, count)
    labels = np.random.default_rng(1).integers(0, 4, planes.shape[1:]).astype(np.uint32)
    found = describe(planes, labels, 4)
    for region in range(4):
        ys, xs = np.nonzero(labels == region)
        assert found.size[region] == len(ys)
        assert found.box[region].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_array_equal(found.counts[region], plain_counts(planes, labels, region))


def test_a_region_that_the_quincunx_misses_is_counted_whole() -> None:
    planes = scene(4)
    labels = np.zeros(planes.shape[1:], np.uint32)
    labels[7, 3:30] = 1  # an odd row
    labels[4, 11] = 2  # a column that row 4 leaves out
    found = united(planes, labels, describe(planes, labels, 3), np.arange(3, dtype=np.uint32), 3)
    np.testing.assert_array_equal(found.counts[0], plain_counts(planes, labels, 0))
    assert found.counts[1, : 3 * COLOUR_BINS].sum() == 3 * 27
    assert found.counts[2, : 3 * COLOUR_BINS].sum() == 3
    for region in (1, 2):
        np.testing.assert_array_equal(found.counts[region], plain_counts(planes, labels, region, every=1))


def test_eight_directions_each_count_every_pixel() -> None:
    planes = scene(2)
    found = describe(planes, np.zeros(planes.shape[1:], np.uint32), 1)
    pixels = len(planes[0, ::4, ::2].ravel()) + len(planes[0, 2::4, 1::2].ravel())  # every second of every second row
    by_direction = found.counts[0, 3 * COLOUR_BINS :].reshape(3 * AXES * 2, TEXTURE_BINS)
    assert (by_direction.sum(1) == pixels).all()
    assert found.counts[0, : 3 * COLOUR_BINS].sum() == 3 * pixels


def test_united_regions_are_those_of_the_united_labels() -> None:
    planes = scene(3)
    labels = np.random.default_rng(0).integers(0, 6, planes.shape[1:]).astype(np.uint32)
    of = np.array([0, 1, 1, 0, 2, 2], np.uint32)
    for a, b in zip(united(planes, labels, describe(planes, labels, 6), of, 3), describe(planes, of[labels], 3)):
        np.testing.assert_array_equal(a, b)


def shares(counts: Any, colours: int) -> Any:
    parts = []
    for part in (counts[:colours], counts[colours:]):
        scale = np.float32(SHARES) / np.float32(max(part.sum(), 1))
        parts.append((part.astype(np.float32) * scale).astype(int))
    return parts


def similarity(a: tuple[Any, ...], b: tuple[Any, ...], measures: str, colours: int, area: int) -> int:
    """Of two regions (size, box, counts), as the module's docstring says."""
    like = 0
    for letter, one, other in zip("CT", shares(a[2], colours), shares(b[2], colours)):
        like += 16 * int(np.minimum(one, other).sum()) * (letter in measures)
    both = a[0] + b[0]
    if "S" in measures:
        like += int(ONE - both * (ONE / area))
    if "F" in measures:
        wide, high = np.maximum(a[1][2:], b[1][2:]) - np.minimum(a[1][:2], b[1][:2])
        like += int(ONE - (int(wide) * int(high) - both) * (ONE / area))
    return like


def brute_force(regions: Regions, pairs: Any, measures: str, area: int) -> list[tuple[int, int]]:
    """Algorithm 1 with all similarities worked out anew at each merge; of equal ones the lowest segments first."""
    n = len(regions.size)
    colours = regions.counts.shape[1] * COLOUR_BINS // (COLOUR_BINS + TEXTURES)
    held = {i: (int(regions.size[i]), regions.box[i], regions.counts[i], i) for i in range(n)}  # and the lowest segment
    near = {frozenset(map(int, pair)) for pair in pairs}
    merges = []

    def lowest(node: int) -> int:
        return int(held[node][3])

    for new in range(n, 2 * n - 1):

        def order(pair: frozenset[int]) -> tuple[int, ...]:
            a, b = sorted(pair, key=lowest)
            return (-similarity(held[a], held[b], measures, colours, area), held[a][3], held[b][3])

        a, b = sorted(min(near, key=order), key=lowest)
        one, other = held.pop(a), held.pop(b)
        box = np.concatenate([np.minimum(one[1][:2], other[1][:2]), np.maximum(one[1][2:], other[1][2:])])
        held[new] = (one[0] + other[0], box, one[2] + other[2], one[3])
        renamed = ({new if node in (a, b) else node for node in pair} for pair in near)
        near = {frozenset(pair) for pair in renamed if len(pair) == 2}
        merges.append((a, b))
    return merges


@pytest.mark.parametrize("measures", ["CTSF", "TSF", "C", "T", "S", "F", "CT", "SF"])
@pytest.mark.parametrize("seed", range(3))
def test_the_tree_is_algorithm_1s(measures: str, seed: int) -> None:
    planes = scene(seed, 1 if seed == 2 else 3)
    atoms, (found,) = segmentations(planes, [(20, 12)])
    regions = described(planes, atoms, found)
    assert found.n > 15
    tree = group(regions, found.pairs, measures, atoms.size)
    assert [tuple(map(int, pair)) for pair in tree.merges] == brute_force(regions, found.pairs, measures, atoms.size)


def test_a_tree_whose_lists_outgrow_their_room_is_algorithm_1s() -> None:
    planes = channels(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    atoms, (found,) = segmentations(planes, [(3, 5)])
    regions = described(planes, atoms, found)
    tree = group(regions, found.pairs, "CTSF", atoms.size)
    merges = [tuple(map(int, pair)) for pair in tree.merges]
    assert found.n > 100
    assert written(found.pairs, merges) > 4 * len(found.pairs) + 64  # more than there is room for: they were packed
    assert merges == brute_force(regions, found.pairs, "CTSF", atoms.size)


def written(pairs: Any, merges: list[tuple[int, int]]) -> int:
    """How many entries of neighbours are written in all: those of the segments, then of each node that comes of two."""
    near: dict[int, set[int]] = {}
    for a, b in pairs.tolist():
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    total = 2 * len(pairs)
    for i, (a, b) in enumerate(merges):
        new = len(merges) + 1 + i
        near[new] = (near.pop(a) | near.pop(b)) - {a, b}
        for c in near[new]:
            near[c] = near[c] - {a, b} | {new}
        total += len(near[new])
    return total


@pytest.mark.parametrize("measures", ["CTSF", "C", "S"])
def test_of_equal_pairs_the_lowest_segments_merge_first(measures: str) -> None:
    tiles = (np.indices((6, 8)).sum(0) % 3 * 90).astype(np.uint8)  # three colours in stripes, each tile the same
    planes = np.kron(tiles, np.ones((8, 8), np.uint8))[None]
    labels = np.kron(np.arange(48, dtype=np.uint32).reshape(6, 8), np.ones((8, 8), np.uint32))
    down = [(r * 8 + c, r * 8 + c + 8) for r in range(5) for c in range(8)]
    across = [(r * 8 + c, r * 8 + c + 1) for r in range(6) for c in range(7)]
    pairs = np.array(sorted(down + across)[::-1], np.uint32)  # whatever the order they come in
    regions = describe(planes, labels, 48)
    tree = group(regions, pairs, measures, labels.size)
    assert [tuple(map(int, pair)) for pair in tree.merges] == brute_force(regions, pairs, measures, labels.size)


@pytest.mark.parametrize("seed", range(4))
def test_any_tree(seed: int) -> None:
    """n - 1 merges, each node merged once; sizes and boxes are those of the parts; the last is the image."""
    rng = np.random.default_rng(seed)
    planes = channels(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8))
    atoms, (found,) = segmentations(planes, [(5, 5)])
    regions = described(planes, atoms, found)
    tree = group(regions, found.pairs, "CTSF", atoms.size)
    n = found.n
    assert n > 100
    assert tree.merges.shape == (n - 1, 2)
    assert sorted(tree.merges.ravel()) == list(range(2 * n - 2))
    assert (tree.merges.max(1) < np.arange(n, 2 * n - 1)).all()
    np.testing.assert_array_equal(tree.size[:n], regions.size)
    np.testing.assert_array_equal(tree.size[n:], tree.size[tree.merges].sum(1))
    np.testing.assert_array_equal(tree.box[n:, :2], tree.box[tree.merges][..., :2].min(1))
    np.testing.assert_array_equal(tree.box[n:, 2:], tree.box[tree.merges][..., 2:].max(1))
    assert tree.size[-1] == atoms.size
    assert tree.box[-1].tolist() == [0, 0, 60, 50]


def test_counts_do_not_overflow_shares() -> None:
    """One colour, no texture: a histogram of a single bin holds everything."""
    planes = np.full((1, 6, 4000), 3, np.uint8)
    planes[:, :, 2000:] = 200
    atoms, (found,) = segmentations(planes, [(10, 10)])
    regions = described(planes, atoms, found)
    assert found.n == 2
    tree = group(regions, found.pairs, "CT", atoms.size)
    assert tree.merges.tolist() == [[0, 1]]
