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


def plain_segmentation(planes: Any, k: float, smallest: int) -> Any:
    """Labels (H W) by the paper's two rounds over a sorted list of edges, with sets of pixels for components."""
    _, height, width = planes.shape
    weights = plain_weights(planes)
    flat = [(y, x, way) for y in range(height) for way in range(4) for x in range(width)]
    edges = [(int(weights[y, way, x]), y * width + x, way) for y, x, way in flat if weights[y, way, x] < OFF]
    ahead = [below * width + aside for below, aside in WAYS]
    own = list(range(height * width))  # the component of each pixel, named by its first pixel
    members = {p: [p] for p in own}
    limit = {}

    def join(a: int, b: int) -> int:
        a, b = min(a, b), max(a, b)
        for p in members[b]:
            own[p] = a
        members[a] += members.pop(b)
        return a

    for weight, p, way in edges:
        if way < 2 and weight <= FLOOR * LEVELS and own[p] != own[p + ahead[way]]:
            join(own[p], own[p + ahead[way]])
    for name, pixels in members.items():
        inner = FLOOR if len(pixels) > 1 else 0
        limit[name] = int((np.float32(inner) + np.float32(k) / np.float32(len(pixels))) * LEVELS)
    heavier = sorted((edge for edge in edges if edge[0] > FLOOR * LEVELS), key=lambda edge: edge[0])
    for weight, p, way in heavier:
        a, b = own[p], own[p + ahead[way]]
        if a != b and weight <= min(limit[a], limit[b]):
            a = join(a, b)
            limit[a] = int(weight + np.float32(k) / np.float32(len(members[a])) * LEVELS)
    for _, p, way in heavier:
        a, b = own[p], own[p + ahead[way]]
        if a != b and min(len(members[a]), len(members[b])) < smallest:
            join(a, b)
    return np.array(own).reshape(height, width)


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
    assert same_partition(found.of_atom[atoms], plain_segmentation(planes, k, smallest))


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
    assert len(found.pairs) > segments.RECENT
