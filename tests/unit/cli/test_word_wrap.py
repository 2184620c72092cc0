"""Streamed text is wrapped between words, however it comes and however wide the terminal is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mlxmesh_cli.screen.word_wrap import WordWrap

WORDS = st.lists(st.text("abcdeé漢字かな", min_size=1, max_size=12), max_size=40)


def wrapped(text: str, width: int, *, piece: int = 1) -> str:
    wrap = WordWrap(lambda: width)
    pieces = [text[start : start + piece] for start in range(0, len(text), piece)]
    return "".join(map(wrap.feed, pieces)) + wrap.flush()


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
def test_a_line_is_broken_between_words(piece: int) -> None:
    assert wrapped("the quick brown fox jumps", 10, piece=piece) == "the quick\nbrown fox\njumps"


def test_a_word_that_just_fits_stays_on_the_line() -> None:
    assert wrapped("the quick!", 10) == "the quick!"
    assert wrapped("the quick!!", 10) == "the\nquick!!"


def test_line_breaks_and_indentation_stay() -> None:
    assert wrapped("def f():\n    return 1\n\nend", 20) == "def f():\n    return 1\n\nend"
    assert wrapped("a\tb", 20) == "a    b"


def test_a_word_wider_than_the_terminal_starts_a_line_and_stays_whole() -> None:
    address = "https://example.com/a/very/long/path"
    assert wrapped(f"see {address} for more", 12) == f"see\n{address}\nfor more"


def test_a_long_word_is_not_held_back() -> None:
    wrap = WordWrap(lambda: 10)
    assert wrap.feed("x" * 500) == "x" * 500


def test_wide_characters_count_twice_and_may_be_separated() -> None:
    assert wrapped("漢字漢字漢字", 8) == "漢字漢字\n漢字"
    assert wrapped("漢字漢字。", 8).splitlines() == ["漢字漢", "字。"]


def test_a_combining_mark_stays_with_its_letter() -> None:
    assert wrapped("e\u0301" * 4 + " a", 4).splitlines() == ["e\u0301" * 4, "a"]


def test_a_terminal_that_was_resized_is_noticed() -> None:
    width = 30
    wrap = WordWrap(lambda: width)
    shown = wrap.feed("one two three four ")
    width = 10
    shown += wrap.feed("five six seven eight") + wrap.flush()
    assert shown.splitlines() == ["one two three four", "five six", "seven", "eight"]


def test_what_a_terminal_would_obey_is_replaced() -> None:
    assert wrapped("a\x1b[2Jb\x07\x9b\r\nc", 80) == "a\ufffd[2Jb\ufffd\ufffd\nc"


@given(words=WORDS, width=st.integers(12, 60), piece=st.integers(1, 9))
def test_no_word_is_lost_and_no_line_too_wide(words: list[str], width: int, piece: int) -> None:
    shown = wrapped(" ".join(words), width, piece=piece)
    assert shown.replace("\n", "").replace(" ", "") == "".join(words)
    limit = max([width, *map(cell_len, words)])
    assert all(cell_len(line) <= limit for line in shown.splitlines())


@given(words=st.lists(st.text("abcde", min_size=1, max_size=12), max_size=40))
def test_no_word_is_broken(words: list[str]) -> None:
    assert wrapped(" ".join(words), 12).split() == words
