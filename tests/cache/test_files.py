"""The file format: whole or not at all, and every damage is found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rcnn.cache import files
from rcnn.errors import UserError
from safetensors.numpy import load_file

ARRAYS = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, min_side=0),
)


def store(path: Path, arrays: dict[str, Any]) -> None:
    files.write(path, arrays, {"id": "x"})


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(["boxes", "features.fc7", "ü/…"]), ARRAYS))
def test_what_is_written_is_read(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = tmp_path / "x.safetensors"
    store(path, arrays)
    found = files.read(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_an_array_that_is_not_contiguous_comes_back_right(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    store(tmp_path / "x", {"a": array.T, "b": array[::2, ::3]})
    assert np.array_equal(files.read(tmp_path / "x")["a"], array.T)
    assert np.array_equal(files.read(tmp_path / "x")["b"], array[::2, ::3])


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(3, 5))
    store(tmp_path / "x", {"a": array})
    assert np.array_equal(load_file(tmp_path / "x")["a"], array)


def flipped_bits(path: Path) -> Iterator[int]:
    """Each bit of a file, the file having just that one wrong; afterwards it is as it was."""
    whole = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for bit in range(8 * len(whole)):
            os.pwrite(file.fileno(), bytes([whole[bit // 8] ^ 1 << bit % 8]), bit // 8)
            yield bit
            os.pwrite(file.fileno(), whole[bit // 8 : bit // 8 + 1], bit // 8)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x"
    store(path, {"a": np.arange(7, dtype=np.float16), "b": np.arange(3)})
    good = files.read(path)
    silent = []
    for bit in flipped_bits(path):
        with suppress(files.Unreadable):
            found = files.read(path)
            if found.keys() != good.keys() or any(found[n].tobytes() != good[n].tobytes() for n in good):
                silent.append(bit)
    assert not silent


def test_every_flipped_bit_counts_where_there_is_no_number(tmp_path: Path) -> None:
    """Padding and lengths too, which lead to the same nothing: one bit makes the shape 0.4 of 0,4."""
    path = tmp_path / "x"
    store(path, {"boxes": np.zeros((0, 4), np.float32)})
    silent = []
    for bit in flipped_bits(path):
        with suppress(files.Unreadable):
            files.examine(path)
            silent.append(bit)
    assert not silent
    assert len(files.examine(path).slots) == 1


@pytest.mark.parametrize("keep", [0, 4, 20, 100, -1])
def test_a_truncated_file_is_found(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x"
    store(path, {"a": np.arange(50)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(files.Unreadable, match=str(path)):
        files.read(path)


def test_a_file_that_goes_on_after_its_end_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x"
    store(path, {"a": np.arange(50)})
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(files.Unreadable, match="goes on after its end"):
        files.open_header(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.open_header(tmp_path / "x")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "in_the_way").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*in_the_way"):
        store(tmp_path / "in_the_way" / "x", {"a": np.zeros(3)})


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    store(path, {"a": np.arange(4)})

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"cannot write .*x: No space left on device"):
        store(path, {"a": np.arange(9)})
    assert np.array_equal(files.read(path)["a"], np.arange(4))
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    store(tmp_path / "x", {"a": np.zeros(3)})
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    "read", [files.open_header, files.read, files.examine, lambda path: files.read_arrays(path, {})]
)
def test_what_the_system_does_not_let_be_read_is_one_sentence(tmp_path: Path, read: Any) -> None:
    with pytest.raises(UserError, match=rf"cannot read {tmp_path}: Is a directory"):
        read(tmp_path)


def test_a_disk_that_gives_no_bytes_is_no_damage(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.symlink_to("/proc/self/mem")  # of which the first bytes cannot be read
    if not bad.exists():
        pytest.skip("there is no /proc/self/mem")
    with pytest.raises(UserError, match=rf"cannot read {bad}: Input/output error"):
        files.read(bad)
