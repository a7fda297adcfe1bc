"""Pictures are drawn of whatever a name or a field holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rcnn.pipeline import pictures
from rcnn.stages.proposals.selective_search import SelectiveSearch
from rcnn.stages.record import Record

IMAGE = np.kron(np.random.default_rng(0).integers(0, 255, (4, 5, 3)), np.ones((12, 12, 1))).astype(np.uint8)


def test_a_dollar_is_a_dollar(tmp_path: Path) -> None:
    """matplotlib reads what is between two of them as mathematics, and fails on most of it."""
    one = np.ones(1, np.float32)
    found = {"det_boxes": np.array([[5, 5, 40, 30]], np.float32), "det_scores": one, "det_labels": np.ones(1, np.int64)}
    record = Record(r"$\frac{$.jpg", {"image": IMAGE, **found})
    pictures.detections(record, [r"$\sqrt$ and $"], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize("field", ["regions.labels", "regions.merges", "regions.nodes"])
@pytest.mark.parametrize("top", [20, 1])
def test_regions_are_drawn(tmp_path: Path, top: int, field: str) -> None:
    from PIL import Image

    stage = SelectiveSearch(width=None, min_side=0, top=top, ks=(10, 40), regions=True)
    record = Record("a", {"image": IMAGE})
    pictures.step(record.add(stage([record])[0]), [field], (), tmp_path / "a.png")
    colours = Image.open(tmp_path / "a.png").convert("RGB").getcolors(1 << 20)
    of_segments = [count for count, (r, g, b) in colours if count > 50 and not r == g == b]
    assert len(of_segments) >= (1 if field == "regions.nodes" and top == 1 else 4)


def test_a_large_image_is_thinned_and_masks_stay_in_their_boxes(tmp_path: Path) -> None:
    """The mask of the left half, drawn at a third of the pixels, reddens the left half alone."""
    from PIL import Image

    grey = np.full((3000, 4000, 3), 128, np.uint8)
    found = {
        "det_boxes": np.array([[0, 0, 2000, 3000]], np.float32),
        "det_scores": np.ones(1, np.float32),
        "det_labels": np.ones(1, np.int64),
        "det_masks": np.ones((1, 28, 28), np.float32),
    }
    pictures.detections(Record("a", {"image": grey, **found}), ["thing"], tmp_path / "a.png")
    drawn = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    plain = np.nonzero((drawn == 128).all(2).sum(0) > drawn.shape[0] / 2)[0]  # columns of the image as it is
    tinted = np.nonzero((np.abs(drawn - drawn[..., :1]).max(2) > 20).sum(0) > drawn.shape[0] / 3)[0]
    assert tinted.max() <= plain.min() + 4  # the box has an edge
    assert len(tinted) == pytest.approx(len(plain), rel=0.05)
