"""The demo, made small: what it prints is what its page shows."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest
from rcnn.pipeline import demo


def test_the_page_holds_the_tables_that_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, n in (("TRAIN", 3), ("TEST", 2), ("BOXES", 20), ("PICTURES", 1)):
        monkeypatch.setattr(demo, name, n)
    monkeypatch.setattr("rcnn.pipeline.recipes.pretraining.CROPS", 64)
    place = tmp_path / "<out>"
    page = demo.demo(place, device="cpu", jobs=1, cache=tmp_path / "cache").read_text()
    printed = capsys.readouterr().out
    for title in ("average precision", "where objects were lost", "cost by step", f"cache in {tmp_path / 'cache'}"):
        assert "".join(title.split()) in "".join(printed.split())  # a long one is broken over lines
        assert f"<h2>{title[0].upper()}{title[1:]}</h2>" in unescape(page)
    (total,) = (line for line in page.splitlines() if line.startswith("<tr><td>mean over classes</td>"))
    cells = total.removesuffix("</td></tr>").split("<td>")
    (row,) = (line for line in printed.splitlines() if line.startswith("│ mean over classes"))
    assert [cell.strip() for cell in row.strip("│").split("│")] == [cell.removesuffix("</td>") for cell in cells[1:]]
    assert [path.name for path in (place / "pictures").iterdir()] == ["00.png"]
    demo.demo(place, device="cpu", jobs=1, cache=tmp_path / "cache")
    assert "no stage was called: all is from the cache" in capsys.readouterr().out
