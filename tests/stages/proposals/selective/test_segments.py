"""Graph segmentation: as a plain reading of the paper at one k; nested atoms; least sizes; odd images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rcnn.stages.proposals.selective import segments
from rcnn.stages.proposals.selective.segments import FLOOR, LEVELS, OFF, channels, segmentations, weigh

WAYS = ((0, 1), (1, 0), (1, 1), (1, -1))


def weights_of(planes: Any) -> Any:
    weights = np.empty((planes.shape[1], 4, planes.shape[2]), np.uint16)
    weigh(planes, weights)
    return weights


def plain_weights(planes: Any) -> Any:
    """H 4 W, by the definition."""
    _, height, width = planes.shape
    out = np.full((height, 4, width), OFF)
    for y in range(height):
        for x in range(width):
            for way, (below, aside) in enumerate(WAYS):
                if y + below < height and 0 <= x + aside < width:
                    apart = planes[:, y, x].astype(np.float32) - planes[:, y + below, x + aside].astype(np.float32)
                    out[y, way, x] = int(np.float32(LEVELS) * np.sqrt(np.float32((apart * apart).sum())))
    return out


def plain_segmentations(planes: Any, ks: list[tuple[float, int]]) -> list[Any]:
    """Labels (H W) at each k, by the paper's two rounds over a sorted list of edges, each pixel naming its component.

    ks: k and the smallest segment. The first k starts from pixels; the others start from its components, before the
    second round, as if each were a pixel of that size.
    """
    _, height, width = planes.shape
    weights = plain_weights(planes)
    flat = [(y, x, way) for y in range(height) for way in range(4) for x in range(width)]
    edges = [(int(weights[y, way, x]), y * width + x, way) for y, x, way in flat if weights[y, way, x] < OFF]
    heavier = sorted((edge for edge in edges if edge[0] > FLOOR * LEVELS), key=lambda edge: edge[0])
    ahead = [below * width + aside for below, aside in WAYS]
    start = list(range(height * width))  # the component of each pixel, named by its first pixel

    def join(own: list[int], a: int, b: int) -> int:
        a, b = min(a, b), max(a, b)
        own[:] = [a if one == b else one for one in own]
        return a

    def first_round(own: list[int], k: float, inner: float, whole: bool) -> None:
        """inner: Int of a component of several pixels. whole: whether limits are rounded down to levels."""
        rounded = int if whole else np.float32
        sizes = {name: np.float32(own.count(name)) for name in own}
        limit = {n: rounded((np.float32(inner * (m > 1)) + np.float32(k) / m) * LEVELS) for n, m in sizes.items()}
        for weight, p, way in heavier:
            a, b = own[p], own[p + ahead[way]]
            if a != b and weight <= min(limit[a], limit[b]):
                a = join(own, a, b)
                limit[a] = rounded(weight + np.float32(k) / np.float32(own.count(a)) * LEVELS)

    for weight, p, way in edges:
        if way < 2 and weight <= FLOOR * LEVELS and start[p] != start[p + ahead[way]]:
            join(start, start[p], start[p + ahead[way]])
    first_round(start, ks[0][0], FLOOR, whole=True)
    found = []
    for i, (k, smallest) in enumerate(ks):
        own = start.copy()
        if i:
            first_round(own, k, 0, whole=False)
        for _, p, way in heavier:
            a, b = own[p], own[p + ahead[way]]
            if a != b and min(own.count(a), own.count(b)) < smallest:
                join(own, a, b)
        found.append(np.array(own).reshape(height, width))
    return found


def same_partition(a: Any, b: Any) -> bool:
    pairs = np.unique(np.stack([np.ravel(a), np.ravel(b)]), axis=1)
    return len(np.unique(a)) == len(np.unique(b)) == pairs.shape[1]


images = hnp.arrays(np.uint8, st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)))
smooth = images.map(lambda planes: (planes // 16).astype(np.uint8))  # with flat zones


@given(images)
@settings(max_examples=40, deadline=None)
def test_weights_are_distances_to_the_neighbours(planes: Any) -> None:
    np.testing.assert_array_equal(weights_of(planes), plain_weights(planes))


@given(images | smooth, st.sampled_from([1.0, 20.0, 300.0]), st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_one_k_is_the_papers_two_rounds(planes: Any, k: float, smallest: int) -> None:
    atoms, (found,) = segmentations(planes, [(k, smallest)])
    assert same_partition(found.of_atom[atoms], plain_segmentations(planes, [(k, smallest)])[0])


@given(images | smooth, st.lists(st.integers(1, 400), min_size=2, max_size=4, unique=True), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_a_larger_k_starts_from_the_components_of_the_smallest(planes: Any, ks: list[int], smallest: int) -> None:
    asked = [(float(k), smallest) for k in sorted(ks)]
    atoms, found = segmentations(planes, asked)
    for one, plain in zip(found, plain_segmentations(planes, asked)):
        assert same_partition(one.of_atom[atoms], plain)


@given(images | smooth, st.lists(st.integers(1, 200), min_size=1, max_size=4, unique=True))
@settings(max_examples=60, deadline=None)
def test_segments_atoms_and_neighbours(planes: Any, ks: list[int]) -> None:
    atoms, found = segmentations(planes, [(float(k), k) for k in sorted(ks)])
    assert sorted(np.unique(atoms)) == list(range(int(atoms.max()) + 1))
    for k, one in zip(sorted(ks), found):
        labels = one.of_atom[atoms]
        assert sorted(np.unique(labels)) == list(range(one.n))
        sizes = np.bincount(labels.ravel())
        assert one.n == 1 or sizes.min() >= k
        touching = {tuple(sorted((int(a), int(b)))) for a, b in one.pairs}
        assert len(touching) == len(one.pairs)
        assert neighbours(labels, WAYS[:2]) <= touching <= neighbours(labels, WAYS)
    keys = {tuple(int(one.of_atom[atom]) for one in found) for atom in range(int(atoms.max()) + 1)}
    assert len(keys) == int(atoms.max()) + 1  # no two atoms that every segmentation puts together


def neighbours(labels: Any, ways: Any) -> set[tuple[int, int]]:
    height, width = labels.shape
    found = set()
    for below, aside in ways:
        here = labels[: height - below, max(0, -aside) : width - max(0, aside)]
        there = labels[below:, max(0, aside) : width - max(0, -aside)]
        found |= {tuple(sorted((int(a), int(b)))) for a, b in zip(here.ravel(), there.ravel()) if a != b}
    return found


larger = hnp.arrays(np.uint8, st.tuples(st.sampled_from([1, 3]), st.integers(1, 30), st.integers(1, 30)))


@given(larger | larger.map(lambda planes: (planes // 12).astype(np.uint8)))
@settings(max_examples=100, deadline=None)
def test_edges_that_are_left_out_would_join_nothing(planes: Any) -> None:
    ks = [(5.0, 5), (20.0, 20), (80.0, 80)]
    atoms, found = segmentations(planes, ks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "thin", lambda weights, zones: None)
        whole, all_found = segmentations(planes, ks)
    np.testing.assert_array_equal(atoms, whole)
    for one, other in zip(found, all_found):
        np.testing.assert_array_equal(one.of_atom, other.of_atom)
        np.testing.assert_array_equal(one.pairs, other.pairs)


def test_most_edges_of_a_textured_image_are_left_out() -> None:
    noise = np.random.default_rng(0).integers(0, 10, (60, 90, 3), dtype=np.uint8)
    weights = weights_of(channels(noise))
    before = (weights < OFF).sum()
    segments.thin(weights, segments.flat_zones(weights))
    assert (weights < OFF).sum() < 0.8 * before


def test_two_halves_are_two_segments() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 15:] = 200
    atoms, (found,) = segmentations(channels(image), [(50, 50)])
    assert found.n == 2
    assert same_partition(atoms, image[..., 0])
    assert found.pairs.tolist() == [[0, 1]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 2), (3, 700)])
def test_thin_images(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for image in (noise, np.full_like(noise, 9)):
        atoms, found = segmentations(channels(image), [(20, 20), (40, 40)])
        assert atoms.shape == shape
        assert all(one.n >= 1 for one in found)
    assert found[0].n == 1  # flat


def test_dense_pairs_outgrow_no_table() -> None:
    """Pixels of noise at k = 0.01: nearly every pixel is a component, and there are more pairs than a first table."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    _, (found,) = segmentations(channels(noise), [(0.01, 1)])
    assert found.n > 4000
    assert len(found.pairs) > 4096
    assert len(found.pairs) > 1 << segments.RECENT_BITS
