"""Tables at any width: one line a row, and no value is cut or broken."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mlxmesh_cli.screen.grid import Column, Grid, WholeWords, layout

COLUMNS = (
    Column("service", drop=1),
    Column("instance"),
    Column("pid", drop=2, right=True),
    Column("note", drop=3, min_cells=6),
)


def grid() -> Grid:
    table = Grid(*COLUMNS)
    table.add("gateway", "gateway-54e02b37", "4", "all is well and was so")
    table.add("engine", "pocket-v1-8cecd4", "19473", "")
    return table


def shown(width: int) -> list[str]:
    return [line.plain for line in grid().lines(width)]


def test_with_room_everything_is_there() -> None:
    assert shown(80) == [
        "service  instance            pid  note",
        "gateway  gateway-54e02b37      4  all is well and was so",
        "engine   pocket-v1-8cecd4  19473",
    ]


def test_prose_is_cut_first() -> None:
    assert shown(45)[1] == "gateway  gateway-54e02b37      4  all is …"


def test_then_columns_are_left_out_one_after_the_other() -> None:
    assert shown(36)[2] == "engine   pocket-v1-8cecd4  19473"
    assert shown(30)[2] == "engine   pocket-v1-8cecd4"
    assert shown(20)[2] == "pocket-v1-8cecd4"


def test_what_stays_is_never_cut() -> None:
    assert shown(5)[1:] == ["gateway-54e02b37", "pocket-v1-8cecd4"]


def test_a_console_folds_no_row_that_is_too_wide() -> None:
    console = Console(width=5, file=io.StringIO())
    with console.capture() as capture:
        console.print(grid(), crop=False)
    assert len(capture.get().splitlines()) == 3
    assert "gateway-54e02b37" in capture.get()


def test_markup_in_a_value_is_text() -> None:
    table = Grid(Column("name"))
    table.add("[red]x[/red]")
    assert table.lines(80)[1].plain == "[red]x[/red]"


def test_wide_characters_count_twice() -> None:
    table = Grid(Column("name"), Column("n"))
    table.add("漢字", "1")
    table.add("abcd", "2")
    assert [line.plain for line in table.lines(80)] == ["name  n", "漢字  1", "abcd  2"]


@given(natural=st.lists(st.integers(1, 60), min_size=4, max_size=4), width=st.integers(1, 250))
def test_whatever_fits_is_shown_and_the_rest_is_too_wide(natural: list[int], width: int) -> None:
    sizes = layout(COLUMNS, natural, width)
    assert sizes[1] == natural[1]
    assert sizes[2] in (None, natural[2])
    kept = [size for size in sizes if size is not None]
    fits = sum(kept) + 2 * (len(kept) - 1) <= width
    assert fits or len(kept) == 1


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (40, "12:00:01 engine.ready pocket-v1-8cecd4"),
        (30, "12:00:01 engine.ready …"),
        (23, "12:00:01 engine.ready …"),
        (22, "12:00:01 …"),
    ],
)
def test_a_line_ends_between_words(width: int, expected: str) -> None:
    line = WholeWords(Text("12:00:01 engine.ready pocket-v1-8cecd4")).cut(width)
    assert line.plain == expected
    assert cell_len(line.plain) <= width
