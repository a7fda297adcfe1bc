"""A table is the same cells in the terminal and in a document."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from rcnn.pipeline.tables import Table, drawn, markdown, number, size, widths
from rich.console import Console


def printed(table: Table, width: int = 60) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(drawn(table, width))
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


def test_no_number_of_a_narrow_table_is_parted_from_its_unit() -> None:
    table = Table("t", ["step", "size", "said"], [["a", "735.0 GB", "word " * 30]], words=(2,))
    assert "735.0 GB" in printed(table, 40)


@pytest.mark.parametrize("width", [120, 80, 60, 30])
def test_nothing_is_cut_off_a_table_that_is_too_wide(width: int) -> None:
    head = ["step", "for", "to run", "reused", "written", "float16", "float32", "time", "rate"]
    cells = [
        "truth_features",
        "train",
        "all 5011",
        "5011",
        "735.0 GB",
        "367.5 GB",
        "735.0 GB",
        "50.0 min",
        "36 s (12 before)",
    ]
    out = printed(Table("plan", head, [cells], "a caption", words=(1, 8)), width)
    assert max(map(len, out.splitlines())) <= width
    letters = Counter(out) - Counter("plan" + "a caption")
    assert not Counter("".join([*head, *cells]).replace(" ", "")) - letters
    assert ("truth_features" in out) == (width >= 80)


def test_columns_share_the_room_that_there_is() -> None:
    assert widths(100, [3, 5], [10, 20]) == [10, 20]
    assert widths(18, [3, 5], [10, 20]) == [6, 11]  # 10 to spare, of which they want 7 and 15
    assert widths(5, [3, 5], [10, 20]) == [3, 5]
    assert widths(9, [3, 5], [3, 5]) == [3, 5]


def test_a_line_ends_a_section() -> None:
    rows = [["a", "1"], ["b", "2"], ["c", "3"]]
    plain, parted = (printed(Table("t", ["x", "y"], rows, sections=sections)) for sections in ((), (1,)))
    lines = parted.splitlines()
    below = next(i for i, line in enumerate(lines) if line.strip().startswith("│ b")) + 1
    assert lines[below].strip().startswith("├")
    assert [*lines[:below], *lines[below + 1 :]] == plain.splitlines()


def test_numbers_and_bytes() -> None:
    assert [number(value) for value in (None, 0.12345, 1.0)] == ["-", "0.123", "1.000"]
    assert [size(n) for n in (0, 999, 1500.4, 735e9)] == ["0 bytes", "999 bytes", "1.5 kB", "735.0 GB"]
