"""The demo, made small: what it prints is what its page shows."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest
from rcnn.pipeline import demo


def test_the_page_holds_the_tables_that_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {
        "TRAIN": 3,
        "TEST": 2,
        "BOXES": 20,
        "PICTURES": 1,
        "TIMED": 1,
        "STEPS": 2,
        "PROPOSING_STEPS": 2,
        "SCALE": 96,
        "WIDTHS": (8,),
    }
    for name, value in small.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr("rcnn.pipeline.recipes.pretraining.CROPS", 64)
    monkeypatch.setattr("rcnn.pipeline.families.peak_memory", lambda *_: 1_000_000)  # of processes of their own
    place = tmp_path / "<out>"
    page = demo.demo(place, device="cpu", jobs=1, cache=tmp_path / "cache").read_text()
    printed = capsys.readouterr().out
    titles = ("accuracy on the same 2 images", "COCO's AP of masks", "difference in VOC area AP", "cost",
              "seconds an image by step", f"cache in {tmp_path / 'cache'}")  # fmt: skip
    for title in titles:
        assert "".join(title.split()) in "".join(printed.split())  # a long one is broken over lines
        assert f"<h2>{title[0].upper()}{title[1:]}" in unescape(page)
    names = ["rcnn", "sppnet", "fast", "faster", "mask"]
    for name in names:
        rows = [line for line in page.splitlines() if line.startswith(f"<tr><td>{name}</td><td>")]
        cells = [row.removeprefix("<tr><td>").removesuffix("</td></tr>").split("</td><td>") for row in rows]
        shown = [line for line in printed.splitlines() if line.startswith(f"│ {name} ")]
        assert len(shown) > 2
        for line in shown:
            first, *values = (cell.strip() for cell in line.strip("│").split("│"))
            assert any(row[0] == first and row[1:2] == values[:1] for row in cells)
    assert sorted(path.name for path in (place / "pictures").iterdir()) == sorted(f"00-{name}.png" for name in names)
    assert sorted(path.name for path in (place / "runs").iterdir()) == sorted(names)
    demo.demo(place, device="cpu", jobs=1, cache=tmp_path / "cache")
    again = capsys.readouterr()
    assert (again.out + again.err).count("no stage was called: all is from the cache") == 5
