"""Work in batches that halve themselves when memory runs out, on real refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.nets.images import remembered
from rcnn.stages.nets.memory import in_batches, out_of_memory


def real_refusal() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    return caught.value


def test_torchs_own_refusal_is_known() -> None:
    assert out_of_memory(real_refusal())
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_everything_is_done_once() -> None:
    done: list[int] = []
    assert in_batches(lambda part: done.extend(range(10)[part]), 10, 4, "things") == 4
    assert done == list(range(10))


def test_a_batch_is_halved_until_it_fits() -> None:
    done, refusal = np.zeros(21, int), real_refusal()

    def work(part: slice) -> None:
        if part.stop - part.start > 3:
            raise refusal
        done[part] += 1

    with pytest.warns(UserWarning, match="out of memory") as told:
        assert in_batches(work, 21, 16, "crops") == 2
    assert [str(one.message) for one in told] == [
        f"out of memory with {n} crops at once; going on with {n // 2}" for n in (16, 8, 4)
    ]
    assert (done == 1).all()


def test_one_that_does_not_fit_is_told() -> None:
    def work(part: slice) -> None:
        raise MemoryError("no room")

    with pytest.raises(UserError, match="not even one of 3 crops fits into memory: no room"):
        in_batches(work, 3, 1, "crops")


def test_another_error_is_not_caught() -> None:
    def work(part: slice) -> None:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        in_batches(work, 3, 2, "crops")


def test_images_are_kept_as_far_as_they_fit() -> None:
    read: list[int] = []

    def image(i: int) -> np.ndarray:
        read.append(i)
        return np.full(1000, i, np.uint8)

    kept = remembered(image, 4, 2500e-9)  # 2 of 1000 bytes
    read.clear()
    assert [kept(i)[0] for i in (0, 1, 1, 0, 2, 1)] == [0, 1, 1, 0, 2, 1]
    assert read == [0, 1, 2, 1]  # 2 took the place of 1, which was used longer ago
