"""Lines of a file that arrives in pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_jobs.batches.lines import MAX_LINE_BYTES, Line, LineSplitter

TEXT = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n\n", b" ", b"\r\n"]), max_size=30)


def split(pieces: list[bytes], splitter: LineSplitter | None = None) -> list[Line]:
    splitter = splitter or LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return [*lines, *splitter.finish()]


def expected(whole: bytes) -> list[tuple[int, bytes]]:
    return [(n, one) for n, one in enumerate(whole.split(b"\n"), 1) if one.strip()]


@given(TEXT, st.lists(st.integers(0, 60), max_size=6))
def test_lines_do_not_depend_on_how_the_file_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(parts)
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    pieces = [whole[a:b] for a, b in pairwise(places)]

    lines = split(pieces)

    assert [(one.number, one.text) for one in lines] == expected(whole)
    assert lines == split([whole])


@given(TEXT)
def test_reading_goes_on_after_any_line(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    lines = split([whole])
    for index, line in enumerate(lines):
        rest = split([whole[line.end :]], LineSplitter(offset=line.end, lines=line.number))

        assert rest == lines[index + 1 :]


def test_a_line_that_is_too_long_is_not_held_in_memory() -> None:
    splitter = LineSplitter()
    for _ in range(20):
        assert list(splitter.feed(b"x" * 1_000_000)) == []
    [line, after] = list(splitter.feed(b"\nshort\n"))

    assert (line.too_long, len(line.text), line.end) == (True, MAX_LINE_BYTES, 20_000_001)
    assert (after.too_long, after.text, after.number) == (False, b"short", 2)


def test_a_line_of_just_the_limit_is_whole() -> None:
    [line] = split([b"x" * MAX_LINE_BYTES + b"\n"])

    assert not line.too_long
    assert len(line.text) == MAX_LINE_BYTES
