"""Compares what clients saw with an undisturbed run of the same requests. Pure.

    .venv/bin/python -m tests.chaos.checker REFERENCE.jsonl HISTORY.jsonl

The mesh promises: every call ends; one that ends well gave what it would have given undisturbed,
token for token; one that fails gave a beginning of that; and none ends short and says that it is
whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.chaos.history import OK, Call, read_history

Tokens = Sequence[int]


class Kind(StrEnum):
    """What may be wrong with a call."""

    LOST = "lost tokens"
    REPEATED = "repeated tokens"
    REORDERED = "reordered tokens"
    WRONG_TOKENS = "wrong tokens"
    WRONG_TEXT = "wrong text"
    WRONG_END = "wrong finish reason"
    MESSAGES = "messages lost, repeated or out of order"
    TRUNCATED = "silent truncation"
    NO_END = "no end"
    UNKNOWN = "no such request in the reference run"


@dataclass(frozen=True)
class Violation:
    """A promise that was not kept; `tokens` counts those concerned, where tokens are."""

    call_id: str
    kind: Kind
    detail: str
    tokens: int = 0


def by_request(reference: Iterable[Call]) -> dict[str, Call]:
    """The undisturbed calls, each by what it asked.

    Raises ValueError for a reference that is none: a call in it that did not end well.
    """
    calls = {call.request: call for call in reference}
    for call in calls.values():
        if call.status != OK or call.ending is None:
            raise ValueError(f"the reference call {call.call_id} ended as {call.status or 'never'}")
    return calls


def check(history: Iterable[Call], reference: Mapping[str, Call]) -> list[Violation]:
    """Everything that is wrong with the calls."""
    return [found for call in history for found in _check_call(call, reference)]


def _check_call(call: Call, reference: Mapping[str, Call]) -> Iterator[Violation]:
    expected = reference.get(call.request)
    if expected is None:
        yield Violation(call.call_id, Kind.UNKNOWN, "run the reference with the same requests")
        return
    if not call.status:
        yield Violation(call.call_id, Kind.NO_END, f"{len(call.token_ids)} tokens, then nothing")
    yield from _check_order(call)
    yield from _check_completeness(call)
    yield from _check_output(call, expected)


def _check_order(call: Call) -> Iterator[Violation]:
    numbers = [message.sequence for message in call.messages]
    for place, number in enumerate(numbers, 1):
        if number != place:
            detail = f"message {place} has sequence number {number}"
            yield Violation(call.call_id, Kind.MESSAGES, detail)
            return


def _check_completeness(call: Call) -> Iterator[Violation]:
    if call.status != OK:
        return
    if call.ending is None:
        yield Violation(call.call_id, Kind.TRUNCATED, "OK without Finished")
    elif call.ending.completion_tokens != len(call.token_ids):
        said, came = call.ending.completion_tokens, len(call.token_ids)
        detail = f"Finished tells of {said} tokens, {came} came"
        yield Violation(call.call_id, Kind.TRUNCATED, detail, abs(said - came))


def _check_output(call: Call, expected: Call) -> Iterator[Violation]:
    whole = call.status == OK and call.ending is not None
    came, wanted = call.token_ids, expected.token_ids
    if not whole:
        # One that failed may have given any beginning, of tokens and of text.
        wanted = wanted[: len(came)] if len(came) <= len(wanted) else wanted
    if came != wanted:
        kind, tokens, place = difference(came, expected.token_ids)
        yield Violation(call.call_id, kind, f"from token {place} on", tokens)
        return
    text_fits = call.text == expected.text if whole else expected.text.startswith(call.text)
    if not text_fits:
        yield Violation(call.call_id, Kind.WRONG_TEXT, "the same tokens, another text")
    if whole and call.ending and expected.ending:
        was, wanted_end = call.ending.finish_reason, expected.ending.finish_reason
        if was != wanted_end:
            yield Violation(call.call_id, Kind.WRONG_END, f"{was} instead of {wanted_end}")


def difference(came: Tokens, wanted: Tokens) -> tuple[Kind, int, int]:
    """What happened to tokens that are not as wanted: the kind, how many, and from where on."""
    pairs = enumerate(zip(came, wanted, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(came), len(wanted)))
    rest, wanted_rest = list(came[place:]), list(wanted[place:])
    if not rest:
        return Kind.LOST, len(wanted_rest), place
    if lost := _skipped(rest, wanted_rest):
        return Kind.LOST, lost, place
    if repeated := _skipped(wanted_rest, rest):
        again = rest[:repeated]
        before = list(wanted[:place])
        if again == before[len(before) - repeated :] or not wanted_rest:
            return Kind.REPEATED, repeated, place
    if sorted(rest) == sorted(wanted_rest):
        moved = sum(a != b for a, b in zip(rest, wanted_rest, strict=True))
        return Kind.REORDERED, moved, place
    return Kind.WRONG_TOKENS, len(rest), place


def _skipped(rest: list[int], longer: list[int]) -> int:
    """How many of `longer` must be left out at its beginning to go on as `rest`; 0 if none do."""
    for skipped in range(1, len(longer) + 1):
        tail = longer[skipped:]
        shorter = min(len(tail), len(rest))
        if rest[:shorter] == tail[:shorter] and (shorter or not rest):
            return skipped
    return 0


def main() -> int:
    """Check one file against another; the exit status says whether all promises were kept."""
    reference, history = (read_history(Path(name)) for name in sys.argv[1:3])
    found = check(history, by_request(reference))
    for each in found:
        print(f"{each.call_id}: {each.kind}: {each.detail}")
    print(f"{len(history)} calls, {len(found)} violations")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
