"""Tables with one line per row at any width: columns are dropped before values are cut. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

GAP = "  "


@dataclass(frozen=True)
class Column:
    """One column, and how it yields when the table is too wide."""

    name: str
    drop: int = 0
    """Columns with the largest number are dropped first; 0 is never dropped."""
    right: bool = False
    """Whether cells are right-aligned."""
    min_cells: int = 0
    """The width that it may be cut to, with an ellipsis; 0 is never cut."""
    by_words: bool = True
    """Whether it is cut between words, so that numbers stay whole."""
    rare: bool = False
    """Whether it is omitted when all its cells are empty."""


class Grid:
    """A table that is laid out for the width of the output."""

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._rows: list[tuple[Text, ...]] = []

    def add(self, *cells: str | Text) -> None:
        """Adds a row with a cell for each column; markup is not interpreted."""
        if len(cells) != len(self._columns):
            raise ValueError(f"{len(cells)} cells for {len(self._columns)} columns: {cells}")
        texts = (Text(cell) if isinstance(cell, str) else cell for cell in cells)
        self._rows.append(tuple(texts))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Text]:
        return self.lines(options.max_width)

    def lines(self, width: int) -> list[Text]:
        """Header and rows; wider than `width` only where a value would be cut otherwise."""
        shown = [at for at, column in enumerate(self._columns) if not self._is_omitted(at, column)]
        columns = [self._columns[at] for at in shown]
        names = [Text(column.name, style="bold") for column in columns]
        rows = [names, *([row[at] for at in shown] for row in self._rows)]
        natural = [max(cell_len(cell.plain) for cell in cells) for cells in zip(*rows, strict=True)]
        sizes = layout(columns, natural, width)
        return [_line(columns, row, sizes) for row in rows]

    def _is_omitted(self, at: int, column: Column) -> bool:
        return column.rare and not any(row[at].plain for row in self._rows)


def layout(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int | None]:
    """The width of each column in cells; None for a dropped one."""
    left = set(range(len(columns)))
    while True:
        sizes = _cut(columns, {at: natural[at] for at in sorted(left)}, width)
        droppable = [at for at in left if columns[at].drop]
        if _total(sizes) <= width or not droppable:
            return [sizes.get(at) for at in range(len(columns))]
        left.remove(max(droppable, key=lambda at: columns[at].drop))


def _cut(columns: Sequence[Column], sizes: dict[int, int], width: int) -> dict[int, int]:
    """Cuts columns to their minimum, the last column first."""
    for at in reversed(sizes):
        excess = _total(sizes) - width
        if excess > 0 and columns[at].min_cells:
            sizes[at] = min(sizes[at], max(columns[at].min_cells, sizes[at] - excess))
    return sizes


def _total(sizes: dict[int, int]) -> int:
    return sum(sizes.values()) + len(GAP) * (len(sizes) - 1)


def _line(columns: Sequence[Column], row: Sequence[Text], sizes: Sequence[int | None]) -> Text:
    line = Text(no_wrap=True, overflow="ignore")
    for column, cell, cells in zip(columns, row, sizes, strict=True):
        if cells is not None:
            line.append_text(_padded(column, cell, cells))
            line.append(GAP)
    line.rstrip()
    return line


def _padded(column: Column, cell: Text, cells: int) -> Text:
    shown = cell.copy()
    if column.min_cells and column.by_words:
        shown = WholeWords(shown).cut(cells)
    elif column.min_cells:
        shown.truncate(cells, overflow="ellipsis")
    blanks = " " * (cells - cell_len(shown.plain))
    return Text(blanks) + shown if column.right else shown + Text(blanks)


class WholeWords:
    """A line that is cut after the last word that fits, with an ellipsis."""

    def __init__(self, line: Text) -> None:
        self._line = line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Text]:
        yield self.cut(options.max_width)

    def cut(self, width: int) -> Text:
        """The line, at most this wide."""
        if cell_len(self._line.plain) <= width:
            return self._line
        spaces = [at for at, each in enumerate(self._line.plain) if each == " "]
        ends = [at for at in spaces if cell_len(self._line.plain[:at]) + 2 <= width]
        kept = self._line[: max(ends, default=0)]
        kept.rstrip()
        return kept + Text(" …" if kept.plain else "…")
