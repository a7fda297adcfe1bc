"""Precomputed proposals: three formats, names of images, and what is said when something is missing."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.stages.proposals.precomputed import Precomputed
from rcnn.stages.record import Record

BOXES = np.array([[1, 2, 11, 22], [0, 0, 30, 40], [5, 5, 9, 9]], np.float32)


def propose(file: Path, name: str = "a", **params: Any) -> dict[str, Any]:
    record = Record(name, {"size": np.array([40, 30])})
    fields = Precomputed(str(file), **params)([record])[0]
    record.add(fields)  # fits FIELDS
    return fields


def save_json(path: Path, entries: Any) -> Path:
    path.write_text(json.dumps(entries))
    return path


def save_mat(path: Path, images: dict[str, Any]) -> Path:
    from scipy.io import savemat

    names, boxes = np.empty((len(images), 1), object), np.empty((1, len(images)), object)
    for i, (name, value) in enumerate(images.items()):
        names[i, 0], boxes[0, i] = name, value
    savemat(path, {"images": names, "boxes": boxes})
    return path


def test_npz_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", **{"dir/a": BOXES})
    fields = propose(tmp_path / "p.npz", "dir/a")
    np.testing.assert_array_equal(fields["boxes"], BOXES)
    np.testing.assert_allclose(fields["objectness"], [1, 2 / 3, 1 / 3], rtol=1e-6)


def test_npz_with_scores_is_sorted_by_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", a=np.c_[BOXES, [0.1, 0.9, 0.5]])
    fields = propose(tmp_path / "p.npz", top=2)
    np.testing.assert_array_equal(fields["boxes"], BOXES[[1, 2]])
    np.testing.assert_allclose(fields["objectness"], [0.9, 0.5], rtol=1e-6)


def test_an_image_without_boxes_is_not_a_missing_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", a=np.zeros((0, 4)))
    assert propose(tmp_path / "p.npz")["boxes"].shape == (0, 4)
    with pytest.raises(UserError, match=r"'b'.*p\.npz"):
        propose(tmp_path / "p.npz", "b")


@pytest.mark.parametrize(
    ("entry", "image_id"),
    [
        ({"image_id": "dir/a.jpg"}, "dir/a.jpg"),
        ({"image_id": "dir/a"}, "dir/a.jpg"),
        ({"image_id": "a"}, "dir/a.jpg"),
        ({"file_name": "a.jpg", "image_id": 7}, "dir/a.jpg"),
        ({"file_name": "a.jpg"}, "a"),
        ({"image_id": 139}, "val2017/000000000139.jpg"),
        ({"image_id": 7}, "7"),
        ({"image_id": "000005"}, "000005"),
    ],
)
def test_json_names(tmp_path: Path, entry: dict[str, Any], image_id: str) -> None:
    other = {"image_id": "other", "bbox": [0, 0, 1, 1], "score": 1.0}
    file = save_json(tmp_path / "p.json", [other, {**entry, "bbox": [1, 2, 10, 20], "score": 0.5}])
    fields = propose(file, image_id)
    assert fields["boxes"].tolist() == [[1, 2, 11, 22]]
    assert fields["objectness"].tolist() == [0.5]


def test_one_stem_in_two_folders_is_not_guessed(tmp_path: Path) -> None:
    entries = [{"file_name": f"{folder}/a.jpg", "bbox": [n, 0, 5, 5]} for n, folder in enumerate("xy")]
    file = save_json(tmp_path / "p.json", entries)
    assert propose(file, "y/a.jpg")["boxes"][0, 0] == 1
    with pytest.raises(UserError, match="'a'"):
        propose(file, "a")


def test_json_sorts_by_score_and_ties_keep_their_order(tmp_path: Path) -> None:
    rows = [([0, 0, 1, 1], 0.5), ([0, 0, 2, 2], 0.9), ([0, 0, 3, 3], 0.5)]
    entries = [{"image_id": "a", "bbox": box, "score": score} for box, score in rows]
    assert propose(save_json(tmp_path / "p.json", entries))["boxes"][:, 2].tolist() == [2, 1, 3]


def test_mat_is_one_based_inclusive_and_y_first(tmp_path: Path) -> None:
    file = save_mat(tmp_path / "p.mat", {"000005": np.array([[3.0, 2, 22, 11], [1, 1, 40, 30]]), "b": BOXES})
    fields = propose(file, "000005")
    assert fields["boxes"].tolist() == [[1, 2, 11, 22], [0, 0, 30, 40]]  # the second is the whole image
    assert propose(file, "JPEGImages/000005.jpg")["boxes"].shape == (2, 4)


def test_clipped_and_empty_boxes_dropped(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", a=np.array([[-5, -5, 50, 50], [35, 0, 45, 10], [3, 3, 3, 9], [0, 0, 1, 1]]))
    assert propose(tmp_path / "p.npz")["boxes"].tolist() == [[0, 0, 30, 40], [0, 0, 1, 1]]


def test_another_file_is_read_when_the_parameter_changes(tmp_path: Path) -> None:
    for i, name in enumerate(("p", "q")):
        np.savez(tmp_path / f"{name}.npz", a=BOXES[[i]])
    stage = Precomputed(str(tmp_path / "p.npz"))
    records = [Record("a", {"size": np.array([40, 30])})]
    assert stage(records)[0]["boxes"].tolist() == BOXES[[0]].tolist()
    assert stage.set_params(file=str(tmp_path / "q.npz"))(records)[0]["boxes"].tolist() == BOXES[[1]].tolist()
    sent = pickle.loads(pickle.dumps(stage))  # to a joblib worker: without the open file
    assert not hasattr(sent, "_held")
    assert sent(records)[0]["boxes"].tolist() == BOXES[[1]].tolist()


def test_an_open_file_is_not_shared_with_a_forked_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "p.npz", a=BOXES)
    stage, records = Precomputed(str(tmp_path / "p.npz")), [Record("a", {"size": np.array([40, 30])})]
    stage(records)
    mine = stage._held[1]
    stage(records)
    assert stage._held[1] is mine
    monkeypatch.setattr(os, "getpid", lambda: -1)
    stage(records)
    assert stage._held[1] is not mine


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.json", b"{", "p.json"),
        ("p.json", b'{"annotations": []}', "not a list"),
        ("p.json", b'[{"image_id": 1}]', "bbox"),
        ("p.npz", b"no zip", "p.npz"),
        ("p.mat", b"no mat", "p.mat"),
        ("p.csv", b"1,2", "csv"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        propose(tmp_path / name)


@pytest.mark.parametrize("rows", [np.zeros((2, 3)), np.zeros(4), np.full((1, 4), np.nan), np.array([{}], object)])
def test_broken_entries_name_image_and_file(tmp_path: Path, rows: Any) -> None:
    np.savez(tmp_path / "p.npz", a=rows)
    with pytest.raises(UserError, match=r"'a'.*p\.npz"):
        propose(tmp_path / "p.npz")


def test_missing_file_and_wrong_top() -> None:
    with pytest.raises(UserError, match=r"nowhere\.npz"):
        propose(Path("nowhere.npz"))
    with pytest.raises(ValueError, match="top"):
        Precomputed("p.npz", top=0).validate()
