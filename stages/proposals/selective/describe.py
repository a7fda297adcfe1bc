"""What regions are compared by: size, box, colour and texture histograms (Uijlings et al., IJCV 2013, section 3.2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...kernels import kernel

COLOUR_BINS = 25  # a channel: the paper
TEXTURE_BINS = 10  # a channel and orientation: the paper
AXES = 4  # each holds two opposite orientations
STEP = 5.0  # grey levels of derivative to a texture bin
TEXTURES = AXES * 2 * TEXTURE_BINS  # bins of a channel
EVERY = 2  # every second pixel of every second row is counted


class Regions(NamedTuple):
    """n regions of an image. Histograms are counts, so that those of two regions add up to those of both."""

    size: Any  # n int32, pixels
    box: Any  # n 4 int32, x0 y0 x1 y1, half-open
    counts: Any  # n F int32, counted pixels by colour (C*25 bins), then by texture (C*80)


def describe(planes: Any, labels: Any, count: int) -> Regions:
    """The regions of labels (H W uint32, 0..count - 1) over the smoothed channels (C H W uint8) of an image.

    Derivatives are central differences of the smoothed image, in steps of `STEP` grey levels (the paper's are Gaussian,
    of sigma 1). A quarter of the pixels is counted, in a quincunx.
    """
    size = np.zeros(count, np.int32)
    box = np.zeros((count, 4), np.int32)
    measure(labels, size, box)
    counts = np.zeros((count, len(planes) * (COLOUR_BINS + TEXTURES)), np.int32)
    count_bins(planes, labels, np.float32(1 / STEP), counts)
    rest_in_bin_0(counts, len(planes) * COLOUR_BINS)
    return Regions(size, box, counts)


def united(planes: Any, labels: Any, regions: Regions, of: Any, count: int) -> Regions:
    """`count` regions, each made of those whose `of` (uint32) names it; planes, labels: what they are of.

    One that the quincunx has missed altogether is counted whole.
    """
    out = Regions(*(np.zeros((count, *field.shape[1:]), np.int32) for field in regions))
    unite(of, *regions, *out)
    missed = np.flatnonzero(~out.counts[:, :COLOUR_BINS].any(1))
    count_whole(planes, labels, of, np.float32(1 / STEP), missed, out.box, out.counts)
    if len(missed):
        rest_in_bin_0(out.counts, len(planes) * COLOUR_BINS)
    return out


@kernel
def measure(labels, size, box):  # type: ignore[no-untyped-def]
    """Add up sizes and boxes, run by run."""
    height, width = labels.shape
    box[:, 0], box[:, 1] = width, height
    for y in range(height):
        x = 0
        while x < width:
            label, first = labels[y, x], x
            while x < width and labels[y, x] == label:
                x += 1
            size[label] += x - first
            box[label, 0] = min(box[label, 0], first)
            box[label, 1] = min(box[label, 1], y)
            box[label, 2] = max(box[label, 2], x)
            box[label, 3] = y + 1


@kernel
def count_bins(planes, labels, per_step, counts):  # type: ignore[no-untyped-def]
    """Count colours and the derivatives in eight directions; the diagonal ones are steered from dx and dy."""
    channels, height, width = planes.shape
    bins = np.empty((channels * (1 + AXES), width), np.uint32)
    flat = counts.reshape(-1)
    for y in range(0, height, EVERY):
        _row_bins(planes, y, 0, 1, per_step, bins)  # the borders apart: no test for every pixel
        _row_bins(planes, y, 1, width - 1, per_step, bins)
        _row_bins(planes, y, max(width - 1, 1), width, per_step, bins)
        for x in range(y // EVERY % EVERY, width, EVERY):
            row_of = labels[y, x] * np.uint64(counts.shape[1])
            for i in range(len(bins)):
                flat[row_of + bins[i, x]] += 1


@kernel
def count_whole(planes, labels, of, per_step, regions, box, counts):  # type: ignore[no-untyped-def]
    """Count every pixel of a few small regions."""
    bins = np.empty((len(planes) * (1 + AXES), planes.shape[2]), np.uint32)
    for region in regions:
        for y in range(box[region, 1], box[region, 3]):
            for x in range(box[region, 0], box[region, 2]):
                if of[labels[y, x]] == region:
                    _row_bins(planes, y, x, x + 1, per_step, bins)
                    for i in range(len(bins)):
                        counts[region, bins[i, x]] += 1


@kernel
def rest_in_bin_0(counts, first_texture):  # type: ignore[no-untyped-def]
    """Of an axis's two directions a pixel has one at most, and is in bin 0 of the other: what the others leave."""
    for region in range(len(counts)):
        pixels = np.int32(0)
        for shade in range(COLOUR_BINS):
            pixels += counts[region, shade]
        for first in range(first_texture, counts.shape[1], TEXTURE_BINS):
            counts[region, first] = pixels
            for bin in range(first + 1, first + TEXTURE_BINS):
                counts[region, first] -= counts[region, bin]


@kernel
def _row_bins(planes, y, start, stop, per_step, bins):  # type: ignore[no-untyped-def]
    """The bins (C*5 W, filled from start to stop) of pixels of row y: one at a border, or any that are not."""
    channels, height, width = planes.shape
    for c in range(channels):
        row, above, below = planes[c, y], planes[c, max(y - 1, 0)], planes[c, min(y + 1, height - 1)]
        left = row[max(start - 1, 0) : max(start - 1, 0) + stop - start]
        right = row[min(start + 1, width - 1) :]
        shade, first, i = c * COLOUR_BINS, channels * COLOUR_BINS + c * TEXTURES, c * (1 + AXES)
        _colours(row[start:stop], shade, bins[i, start:stop])
        dx, dy = bins[i + 1, start:stop], bins[i + 2, start:stop]  # one dimension each: numba knows them contiguous
        falling, rising = bins[i + 3, start:stop], bins[i + 4, start:stop]
        _textures(left, right, above[start:stop], below[start:stop], per_step, first, dx, dy, falling, rising)


@kernel
def _colours(row, shade, out):  # type: ignore[no-untyped-def]
    for x in range(len(row)):
        out[x] = np.uint32(shade + (np.int32(row[x]) * COLOUR_BINS >> 8))


@kernel
def _textures(left, right, above, below, per_step, first, along, across, falling, rising):  # type: ignore[no-untyped-def]
    """The bins of derivatives along the four axes."""
    diagonal = np.float32(0.5**0.5)
    for x in range(len(above)):
        dx = (np.float32(right[x]) - np.float32(left[x])) * per_step
        dy = (np.float32(below[x]) - np.float32(above[x])) * per_step
        along[x] = np.uint32(first + _place(dx))
        across[x] = np.uint32(first + 2 * TEXTURE_BINS + _place(dy))
        falling[x] = np.uint32(first + 4 * TEXTURE_BINS + _place((dx + dy) * diagonal))
        rising[x] = np.uint32(first + 6 * TEXTURE_BINS + _place((dx - dy) * diagonal))


@kernel
def _place(steps):  # type: ignore[no-untyped-def]
    bin = min(np.int32(abs(steps)), np.int32(TEXTURE_BINS - 1))
    return bin if steps > 0 else np.int32(bin + TEXTURE_BINS)


@kernel
def unite(of, size, box, counts, sizes, boxes, all_counts):  # type: ignore[no-untyped-def]
    """Add what is known of each atom to the region that `of` names."""
    boxes[:, :2] = np.iinfo(np.int32).max
    for i in range(len(of)):
        whole = of[i]
        sizes[whole] += size[i]
        for side in range(2):
            boxes[whole, side] = min(boxes[whole, side], box[i, side])
            boxes[whole, side + 2] = max(boxes[whole, side + 2], box[i, side + 2])
        for f in range(counts.shape[1]):
            all_counts[whole, f] += counts[i, f]
