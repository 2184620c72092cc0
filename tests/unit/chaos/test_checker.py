"""The checker finds each fault that a history can hold, and nothing in a good one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.checker import Kind, by_request, check, difference
from tests.chaos.history import OK, Call, Ending, Message, read_history, write_history

TOKENS = (11, 12, 13, 14, 15, 16)


def call(tokens: tuple[int, ...] = TOKENS, call_id: str = "a") -> Call:
    """A call that ended well, two tokens a message, the text a letter for each token."""
    parts = [tokens[i : i + 2] for i in range(0, len(tokens), 2)]
    messages = [Message(1, 0.0)]
    messages += [
        Message(number, 0.1 * number, part, "".join(chr(86 + token) for token in part))
        for number, part in enumerate(parts, 2)
    ]
    messages.append(Message(len(parts) + 2, 9.0))
    return Call(call_id, "{}", 0.0, messages, OK, 9.0, Ending("STOP", len(tokens)))


REFERENCE = by_request([call(call_id="reference")])


def kinds(seen: Call) -> set[Kind]:
    return {violation.kind for violation in check([seen], REFERENCE)}


def with_tokens(*tokens: int) -> Call:
    """As a mesh would tell it that took the fault for the truth."""
    return call(tokens)


def test_an_undisturbed_call_is_as_promised() -> None:
    assert kinds(call()) == set()


def test_a_call_that_failed_with_a_beginning_is_as_promised() -> None:
    whole = call()
    failed = replace(whole, messages=whole.messages[:3], status="UNAVAILABLE", ending=None)
    assert kinds(failed) == set()


@pytest.mark.parametrize(
    ("tokens", "kind", "count"),
    [
        ((11, 12, 14, 15, 16), Kind.LOST, 1),
        ((11, 12, 15, 16), Kind.LOST, 2),
        ((11, 12, 13), Kind.LOST, 3),
        ((), Kind.LOST, 6),
        ((11, 12, 13, 13, 14, 15, 16), Kind.REPEATED, 1),
        ((11, 12, 13, 12, 13, 14, 15, 16), Kind.REPEATED, 2),
        ((11, 12, 13, 14, 15, 16, 16), Kind.REPEATED, 1),
        ((11, 12, 14, 13, 15, 16), Kind.REORDERED, 2),
        ((11, 12, 99, 98, 97, 96), Kind.WRONG_TOKENS, 4),
    ],
)
def test_tokens_that_are_not_the_same(tokens: tuple[int, ...], kind: Kind, count: int) -> None:
    (found,) = check([with_tokens(*tokens)], REFERENCE)
    assert (found.kind, found.tokens) == (kind, count)


def test_tokens_after_a_failure_must_be_a_beginning() -> None:
    failed = replace(with_tokens(11, 13), status="UNAVAILABLE", ending=None)
    assert kinds(failed) == {Kind.LOST}


def test_an_end_without_a_last_message_is_a_silent_truncation() -> None:
    whole = call()
    cut = replace(whole, messages=whole.messages[:3], ending=None)
    assert kinds(cut) == {Kind.TRUNCATED}


def test_a_last_message_that_counts_more_tokens_than_came_is_a_silent_truncation() -> None:
    assert Kind.TRUNCATED in kinds(replace(with_tokens(11, 12), ending=Ending("STOP", 6)))


def test_a_call_must_end() -> None:
    assert kinds(replace(call(), status="", ending=None, ended_s=None)) == {Kind.NO_END}


def test_text_counts_too() -> None:
    whole = call()
    broken = replace(whole.messages[1], text="??")
    messages = [whole.messages[0], broken, *whole.messages[2:]]
    assert kinds(replace(whole, messages=messages)) == {Kind.WRONG_TEXT}


def test_the_reason_for_the_end_counts_too() -> None:
    assert kinds(replace(call(), ending=Ending("LENGTH", len(TOKENS)))) == {Kind.WRONG_END}


@pytest.mark.parametrize("numbers", [(1, 2, 4, 5, 6), (1, 2, 2, 3, 4), (1, 3, 2, 4, 5)])
def test_messages_come_once_and_in_order(numbers: tuple[int, ...]) -> None:
    whole = call()
    messages = [replace(m, sequence=n) for m, n in zip(whole.messages, numbers, strict=True)]
    assert kinds(replace(whole, messages=messages)) == {Kind.MESSAGES}


def test_a_request_without_reference_is_told() -> None:
    assert kinds(replace(call(), request="other")) == {Kind.UNKNOWN}


def test_a_reference_must_have_ended_well() -> None:
    with pytest.raises(ValueError, match="ended as UNAVAILABLE"):
        by_request([replace(call(), status="UNAVAILABLE")])


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_every_difference_has_a_kind_and_a_size(came: list[int], wanted: list[int]) -> None:
    if came != wanted:
        _, tokens, place = difference(came, wanted)
        assert tokens > 0
        assert came[:place] == wanted[:place]


def test_gaps_count_from_the_fault_on() -> None:
    times = [Message(i, at_s) for i, at_s in enumerate((0.0, 5.0, 6.0, 8.0), 1)]
    assert replace(call(), messages=times).longest_gap_s() == 5.0
    assert replace(call(), messages=times).longest_gap_s(after_s=5.5) == 2.0


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    calls = [call(), replace(call(call_id="b"), status="", ending=None, ended_s=None)]
    write_history(file, calls[:1])
    write_history(file, calls[1:])
    assert check(read_history(file), REFERENCE) == check(calls, REFERENCE)
    assert [each.call_id for each in read_history(file)] == ["a", "b"]
    assert len(file.read_text().splitlines()) == 2
