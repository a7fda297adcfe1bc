"""A table is the same cells in the terminal and in a document."""

from __future__ import annotations

import io

from rcnn.pipeline.tables import Table, drawn, markdown
from rich.console import Console


def printed(table: Table, width: int = 60) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(drawn(table))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_markdown_is_rows_of_cells_between_title_and_caption() -> None:
    table = Table("title", ["RUN", "AP", "said"], [["a|b", "0.5", "one\ntwo"]], "caption", words=(2,))
    assert markdown(table).splitlines() == [
        "**title**",
        "",
        "| RUN | AP | said |",
        "| :--- | ---: | :--- |",
        r"| a\|b | 0.5 | one; two |",
        "",
        "caption",
    ]
    assert markdown(table._replace(caption="")).endswith("one; two |\n")


def test_a_cell_is_text_as_it_is() -> None:
    assert "runs/[bold]/x" in printed(Table("t", ["RUN", "AP"], [["runs/[bold]/x", "0.5"]]))


def test_no_word_of_a_narrow_table_is_broken() -> None:
    table = Table("t", ["classifier__negative_iou, layer", "what changed"], [["0.1, gap", "word " * 30]])
    assert "classifier__negative_iou," in printed(table)
