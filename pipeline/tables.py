"""A table as data, drawn in the terminal by rich or written as markdown; and numbers as its cells show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

LINE = "\n"  # between the lines of a cell
WIDTH = 120  # characters of a line, where no terminal says
WIDE = 30  # characters up to which no word, or number with its unit, is broken
BAR = "\\|"  # a bar that ends no cell of markdown


class Table(NamedTuple):
    """Rows of cells under a head. The first column, and those in `words`, hold text; the others numbers.

    sections: positions of the rows under which a line is drawn in the terminal.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    words: Sequence[int] = ()
    sections: Sequence[int] = ()


def drawn(table: Table, width: int = WIDTH) -> Any:
    """The table for a terminal of so many characters. A cell is text as it is: no [markup] in it is read.

    Nothing is ever cut off: what is too wide goes without lines, then its numbers are parted from their units, and at
    last words are broken.
    """
    from rich import box
    from rich import table as rich
    from rich.text import Text

    columns = len(table.head)
    whole, words, wanted = _measures(table)
    lined = sum(whole) + 3 * columns + 1 <= width
    room = width - (3 * columns + 1 if lined else columns - 1)
    least = next((one for one in (whole, words) if sum(one) <= room), [1] * columns)
    look: Any = {"box": box.HEAVY_HEAD} if lined else {"box": box.SIMPLE_HEAD, "padding": 0, "show_edge": False}
    made = rich.Table(title=Text(table.title), caption=Text(table.caption), **look)
    for column, wide in enumerate(widths(room, least, wanted)):
        justify: Any = "left" if _text(table, column) else "right"
        made.add_column(Text(table.head[column]), justify=justify, overflow="fold", width=wide)
    for i, row in enumerate(table.rows):
        made.add_row(*map(Text, row), end_section=i in table.sections)
    return made


def widths(room: int, least: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Characters for each column: at least `least`, as much more of what is `wanted` as there is room for."""
    more = [max(most - one, 0) for one, most in zip(least, wanted)]
    spare = min(max(room - sum(least), 0), sum(more))
    return [one + spare * extra // max(sum(more), 1) for one, extra in zip(least, more)]


def _measures(table: Table) -> tuple[list[int], list[int], list[int]]:
    """Characters of each column so that no number is parted from its unit, that no word is broken, that no line is."""
    columns = [[name, *(row[i] for row in table.rows)] for i, name in enumerate(table.head)]
    words = [min(_longest(cells, str.split), WIDE) for cells in columns]
    numbers = [
        0 if _text(table, i) else min(_longest(cells[1:], str.splitlines), WIDE) for i, cells in enumerate(columns)
    ]
    return list(map(max, words, numbers)), words, [_longest(cells, str.splitlines) for cells in columns]


def _longest(cells: Iterable[str], split: Callable[[str], Sequence[str]]) -> int:
    return max((len(piece) for cell in cells for piece in split(cell)), default=1)


def markdown(table: Table) -> str:
    """The table for a document, its title before it and its caption after it."""
    rule = [":---" if _text(table, column) else "---:" for column in range(len(table.head))]
    lines = [_line(row) for row in (table.head, rule, *table.rows)]
    return "\n".join([f"**{table.title}**", "", *lines, *(["", table.caption] if table.caption else [])]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', BAR).replace(LINE, '; ') for cell in cells)} |"


def _text(table: Table, column: int) -> bool:
    return column == 0 or column in table.words


def number(value: float | None) -> str:
    """A share or an AP, three digits of it; "-" where there is none."""
    return "-" if value is None else f"{value:.3f}"


def size(nbytes: float) -> str:
    """Bytes in the unit that suits them, a thousand to the next."""
    from rich.filesize import decimal

    return decimal(round(nbytes))
