"""However text is cut into chunks, a stop text ends it at the same place and never shows."""

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.text.output import StopScanner

# Few letters, so that stop texts overlap with themselves, each other and the text.
short_texts = st.text(alphabet="ab", min_size=1, max_size=5)
stop_lists = st.lists(short_texts, max_size=4)


def reference(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Character by character over the whole text: the first moment that it ends in a stop text."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


def scan(chunks: list[str], stops: list[str]) -> tuple[str, str | None]:
    scanner = StopScanner(stops)
    shown = ""
    for chunk in chunks:
        text, stop = scanner.feed(chunk)
        shown += text
        if stop is not None:
            return shown, stop
    return shown + scanner.flush(), None


@given(chunks=st.lists(st.text(alphabet="abc", max_size=6), max_size=12), stops=stop_lists)
def test_chunks_end_where_the_whole_text_ends(chunks: list[str], stops: list[str]) -> None:
    assert scan(chunks, stops) == reference("".join(chunks), stops)


@given(chunks=st.lists(st.text(alphabet="abc", max_size=6), max_size=12), stops=stop_lists)
def test_no_more_is_held_back_than_could_begin_a_stop_text(
    chunks: list[str], stops: list[str]
) -> None:
    scanner = StopScanner(stops)
    fed = shown = ""
    for chunk in chunks:
        text, stop = scanner.feed(chunk)
        if stop is not None:
            return
        fed, shown = fed + chunk, shown + text
        held = fed[len(shown) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_a_stop_text_in_one_chunk_cuts_off_what_follows() -> None:
    assert scan(["one END two"], ["END"]) == ("one ", "END")


def test_a_stop_text_over_many_chunks_never_shows() -> None:
    assert scan(["one ", "E", "N", "D two"], ["END"]) == ("one ", "END")


def test_a_beginning_that_came_to_nothing_is_shown() -> None:
    assert scan(["one E", "N", "TER"], ["END"]) == ("one ENTER", None)


def test_of_two_that_end_together_the_longer_is_reported() -> None:
    assert scan(["say hello"], ["lo", "hello"]) == ("say ", "hello")


def test_the_one_that_is_complete_first_wins() -> None:
    assert scan(["abcd"], ["abcd", "c"]) == ("ab", "c")
