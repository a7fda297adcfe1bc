"""The hint which anchors fit: against all anchors of a map laid over each box, and that it names what serves."""

from __future__ import annotations

import numpy as np
from rcnn.pipeline.anchor_hint import hint
from rcnn.stages.boxes import overlap
from rcnn.stages.proposals.anchors import RATIOS, anchors_on, base_anchors, nearest_overlap


def test_the_nearest_cell_has_the_best_anchor() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(150, 250, (40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 150, (40, 2))], 1).astype(np.float32)
    every = anchors_on(base_anchors((32, 128), RATIOS), (40, 40), (16, 16))
    np.testing.assert_allclose(nearest_overlap(boxes, (32, 128), RATIOS, 16), overlap(boxes, every).max(1), atol=1e-5)


def test_small_objects_ask_for_small_sides() -> None:
    """39-pixel platelets of BCCD in images of 640 x 480, enlarged to 800 x 600."""
    corner = np.random.default_rng(0).uniform(0, 400, (50, 2))
    boxes = np.concatenate([corner, corner + 39], 1)
    found = hint(boxes, np.tile([480, 640], (50, 1)))
    assert found["paper"]["covered"] == 0
    assert found["best"]["covered"] == 1
    assert 48 in found["best"]["sides"]
