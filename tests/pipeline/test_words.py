"""What is printed is what was said: no file or class is read as a style; and what is asked for is found or refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rcnn.errors import UserError
from rcnn.pipeline import report, words
from rcnn.pipeline.progress import Bars
from rcnn.pipeline.tables import Table
from rcnn.pipeline.words import emit, lacking, pipeline_of, say
from rcnn.stages.proposals.edge_boxes import EdgeBoxes
from rich.console import Console

ODD = ["set [/x] y", "img[red].jpg", "a [bold]b[/bold] :car:"]


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("channel", [say, emit])
def test_text_is_printed_as_it_is(
    channel: Callable[[Any], None], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    channel(text)
    channel(Table(text, ["x", text], [[text, "1"]], text))
    printed = capsys.readouterr()
    out = printed.err if channel is say else printed.out
    assert out.splitlines()[0] == text
    assert out.count(text) == 5
    assert not (printed.out if channel is say else printed.err)


def test_a_class_may_be_named_as_a_style_ends(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"truths": 3, "voc_area": 0.5}
    lost = {"images": 1, "objects": 0, "first": ["img[red].jpg: it is no image"]}
    emit(report.ap_table({"per_class": {"[/x]": row}, "metrics": {"voc_area": 0.5}, "left_out": lost}))
    out = capsys.readouterr().out
    assert "│ [/x] " in out
    assert "left out, and so not measured: 1 image; the first:" in out
    assert "img[red].jpg: it is no image" in out


def test_a_fit_may_tell_of_a_class_that_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_more: Console(file=drawn, force_terminal=True, width=120))
    with Bars(True) as bars:
        bars.start("fit classifier", 3)
        bars.update("fit classifier", 1, 3, "SVM of [/x]")
        bars._bars.refresh()
    assert "SVM of [/x]" in drawn.getvalue()


def test_a_swapped_stage_that_lacks_a_parameter_says_how_to_give_it() -> None:
    assert lacking(EdgeBoxes, {"top"}) == ["model"]
    assert lacking(EdgeBoxes, {"model"}) == []
    with pytest.raises(UserError, match=r"EdgeBoxes needs --set proposals__model=\.\.\. too$"):
        pipeline_of("rcnn", swaps=["proposals=edge_boxes.EdgeBoxes"])
    sets = ["proposals__model=none.yml"]
    assert pipeline_of("rcnn", sets, ["proposals=edge_boxes.EdgeBoxes"])["proposals"].model == "none.yml"


def test_images_that_cannot_be_used_are_each_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_text("no image")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    assert [record.id for record in words.open_images([tmp_path], cache=tmp_path / "cache")] == ["b.png"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("left out: ") and f"{name}.png: " in line for line, name in zip(lines, "ac"))
    with pytest.raises(UserError, match=r"2 images cannot be used \(--strict\); the first: .*a\.png"):
        words.open_images([tmp_path], strict=True, cache=tmp_path / "cache")
