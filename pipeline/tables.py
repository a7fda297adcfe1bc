"""A table as data: drawn in the terminal by rich, or written as markdown for a document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

LINE = "\n"  # between the lines of a cell
WIDE = 30  # characters up to which no word is broken
BAR = "\\|"  # a bar that ends no cell of markdown


class Table(NamedTuple):
    """Rows of cells under a head. The first column, and those in `words`, hold text; the others numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    words: Sequence[int] = ()


def drawn(table: Table) -> Any:
    """The table for the terminal. A cell is text as it is: no [markup] in it is read."""
    from rich import table as rich
    from rich.text import Text

    made = rich.Table(title=Text(table.title), caption=Text(table.caption))
    for column, name in enumerate(table.head):
        widest = _longest_word(cells[column] for cells in (table.head, *table.rows))
        justify: Any = "left" if _text(table, column) else "right"
        made.add_column(Text(name), justify=justify, overflow="fold", min_width=min(widest, WIDE))
    for row in table.rows:
        made.add_row(*map(Text, row))
    return made


def _longest_word(cells: Iterable[str]) -> int:
    return max((len(word) for cell in cells for word in cell.split()), default=0)


def markdown(table: Table) -> str:
    """The table for a document, its title before it and its caption after it."""
    rule = [":---" if _text(table, column) else "---:" for column in range(len(table.head))]
    lines = [_line(row) for row in (table.head, rule, *table.rows)]
    return "\n".join([f"**{table.title}**", "", *lines, *(["", table.caption] if table.caption else [])]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', BAR).replace(LINE, '; ') for cell in cells)} |"


def _text(table: Table, column: int) -> bool:
    return column == 0 or column in table.words
