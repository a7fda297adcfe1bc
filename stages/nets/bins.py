"""The largest value of a map in each bin of each region: what RoI pooling and spatial pyramid pooling share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np


def roi_bins(boxes: Any, grid: int, size: Sequence[int]) -> Any:
    """The cells of each bin (R grid*grid 4 int64: y0 y1 x0 x1, half-open) of RoI pooling over a map of h x w cells.

    boxes: R 4, in cells, the last cell included, as Caffe's and torchvision's. Both ends are rounded, halves away from
    0; a bin that spans a fraction of cells takes all that it touches (Fast R-CNN, section 2.1), none off the map.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4).astype(np.float64)
    ends = np.trunc(boxes + np.copysign(0.5, boxes)).astype(np.int64)  # C's round()
    first, last = ends[:, :2], ends[:, 2:]
    step = np.maximum(last - first + 1, 1).astype(np.float32) / np.float32(grid)  # R 2, x and y
    at = np.arange(grid + 1, dtype=np.float32)[:, None]
    start = np.floor(at[:-1] * step[:, None]).astype(np.int64) + first[:, None]  # R grid 2
    stop = np.ceil(at[1:] * step[:, None]).astype(np.int64) + first[:, None]
    return _crossed(start, stop, size)


def pyramid_bins(boxes: Any, levels: Sequence[int], size: Sequence[int]) -> Any:
    """The cells of each bin (R B 4 int64: y0 y1 x0 x1) of a spatial pyramid, B the sum of the levels' squares.

    boxes: R 4, in cells, half-open. The window of a box is from floor(x0) + 1 to ceil(x1) - 1, both included (SPPnet,
    appendix A), one cell at least, and on the map. A level of n x n bins takes the cells from floor((i - 1) w / n) to
    ceil(i w / n) for i = 1..n (appendix A), so none is empty.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    limit = np.array([size[1], size[0]])
    first = np.clip(np.floor(boxes[:, :2]) + 1, 0, limit - 1).astype(np.int64)
    last = np.clip(np.ceil(boxes[:, 2:]) - 1, first, limit - 1).astype(np.int64)
    extent = (last - first + 1)[:, None]  # R 1 2
    parts = []
    for n in levels:
        i = np.arange(1, n + 1)[:, None]
        start, stop = (i - 1) * extent // n + first[:, None], -(-i * extent // n) + first[:, None]  # R n 2
        parts.append(_crossed(start, stop, size))
    return np.concatenate(parts, 1)


def _crossed(start: Any, stop: Any, size: Sequence[int]) -> Any:
    """Bins of rows x columns from the two axes (R n 2 each, x and y), cut at the border of the map; row by row."""
    limit = np.array([size[1], size[0]])
    start, stop = np.clip(start, 0, limit), np.clip(stop, 0, limit)
    rows, columns = (np.stack([start[..., axis], stop[..., axis]], -1) for axis in (1, 0))  # R n 2
    n = rows.shape[1]
    crossed = np.concatenate([np.repeat(rows, n, 1), np.tile(columns, (1, n, 1))], -1)
    return crossed.astype(np.int64)


def bin_max(features: Any, bins: Any) -> Any:
    """The largest value of each bin, R B C, of a map (C h w tensor); 0 where a bin is empty. No gradient on a CPU.

    bins: R B 4, y0 y1 x0 x1, half-open, on the map. On a CPU a kernel of ours reads the map cell by cell, all channels
    at once (benchmarks/pooling.py); elsewhere each bin is the largest of four powers of two in a table of them.
    """
    import torch

    if features.device.type == "cpu":
        cells = features.permute(1, 2, 0).float().contiguous().numpy()  # h w C
        out = np.empty((len(bins), bins.shape[1], cells.shape[2]), np.float32)
        _kernel()(cells, np.ascontiguousarray(bins, np.int64), out)
        return torch.from_numpy(out).to(features.dtype)
    return table_max(features, torch.as_tensor(bins, device=features.device))


def table_max(features: Any, bins: Any) -> Any:
    """The same, of tensors on any device, with a gradient."""
    import torch

    y0, y1, x0, x1 = bins.unbind(-1)  # R B
    empty = (y1 <= y0) | (x1 <= x0)
    high, wide = (y1 - y0).clamp(min=1), (x1 - x0).clamp(min=1)
    rows, columns = (torch.log2(side.double()).long() for side in (high, wide))  # the largest power of two inside
    h, w = features.shape[1:]
    out = features.new_zeros(*bins.shape[:2], len(features))
    table = features
    for i in range(int(rows.max()) + 1 if rows.numel() else 0):
        level = table
        for j in range(int(columns.max()) + 1):
            mine = (rows == i) & (columns == j) & ~empty
            if mine.any():
                ya, xa = y0[mine], x0[mine]
                yb, xb = y1[mine] - (1 << i), x1[mine] - (1 << j)
                corners = torch.stack([level[:, y, x] for y in (ya, yb) for x in (xa, xb)])  # 4 C n
                out[mine] = corners.amax(0).T
            level = _doubled(level, 2, 1 << j, w)
        table = _doubled(table, 1, 1 << i, h)
    return out


def _doubled(table: Any, axis: int, step: int, length: int) -> Any:
    """The larger of each cell and the one `step` further; the last ones stay as they are."""
    import torch

    if step >= length:
        return table
    head, tail = table.narrow(axis, 0, length - step), table.narrow(axis, step, length - step)
    return torch.cat([torch.maximum(head, tail), table.narrow(axis, length - step, step)], axis)


def ready() -> None:
    """Compile the kernel, or read it from disk, before it is needed."""
    _kernel()(np.zeros((1, 1, 1), np.float32), np.zeros((0, 1, 4), np.int64), np.zeros((0, 1, 1), np.float32))


@cache
def _kernel() -> Any:
    from ..kernels import kernel

    def largest(cells, bins, out):  # type: ignore[no-untyped-def]
        for r in range(bins.shape[0]):
            for b in range(bins.shape[1]):
                y0, y1, x0, x1 = bins[r, b]
                if y0 >= y1 or x0 >= x1:
                    out[r, b] = 0
                first = True
                for y in range(np.uint64(y0), np.uint64(y1)):
                    for x in range(np.uint64(x0), np.uint64(x1)):
                        cell, best = cells[y, x], out[r, b]
                        if first:
                            for c in range(len(best)):
                                best[c] = cell[c]
                            first = False
                        else:
                            for c in range(len(best)):
                                best[c] = max(best[c], cell[c])

    return kernel(largest)
