"""Streams that moved between instances go on at the right token wherever a reader is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.domain.request import (
    Delta,
    Event,
    Finished,
    FinishReason,
    ReceivedOutput,
    Resumed,
    TotalUsage,
)
from mlxmesh_generation.streams.numbering import Numbering
from mlxmesh_generation.streams.stream import EventBuffer
from mlxmesh_generation.streams.transcript import Transcript
from mlxmesh_shared.errors import MessagesExpired

TOKENS = 60
FINISHED = Finished(FinishReason.LENGTH, 3, 0, TOKENS, total=TotalUsage(TOKENS, 0))


@dataclass
class Reader:
    """What was received, from whichever instances."""

    tokens: list[int] = field(default_factory=list[int])
    events: list[Event] = field(default_factory=list[Event])
    places: list[tuple[int, int, int]] = field(default_factory=lambda: [(0, 0, 0)])
    """After each message: its number, its numbering, and all tokens so far."""

    def resumed(self, *, keeps: bool) -> Resumed:
        """As the gateway asks another instance to go on."""
        places = groupby(self.places[1:], key=lambda place: place[1])
        ranges = [(numbering, [*each][-1][0]) for numbering, each in places]
        (number, numbering, _) = self.places[-1]
        outputs = {0: ReceivedOutput(self.tokens, len(self.tokens))} if self.tokens else {}
        return Resumed(
            outputs,
            after_sequence=number,
            resumptions=0,
            received=self.events if keeps else (),
            numberings=ranges if keeps else ((numbering, number),),
        )


class Instance:
    """Generates the same tokens as every other one, from one of them on."""

    def __init__(self, resumed: Resumed | None = None) -> None:
        self.buffer = EventBuffer()
        received = resumed.received if resumed else ()
        self.transcript = Transcript(self.buffer, keeps=True, resumed=resumed, received=received)
        self._made = len(resumed.outputs[0].token_ids) if resumed and resumed.outputs else 0

    def make(self, count: int) -> None:
        """More tokens; those that nobody has read become one message."""
        for _ in range(min(count, TOKENS - self._made)):
            self.buffer.put(Delta("x", (self._made,)))
            self._made += 1
        if self._made == TOKENS and not self.transcript.ended:
            self.buffer.put(FINISHED)

    async def read(self, reader: Reader, steps: Sequence[int]) -> None:
        """Each step makes so many tokens and reads a message."""
        after = reader.places[-1][0]
        async with aclosing(self.transcript.read(after)) as events:
            for count in steps:
                self.make(count)
                try:
                    number, event = await anext(events)
                except StopAsyncIteration:
                    return
                if isinstance(event, Delta):
                    reader.tokens += event.token_ids
                reader.events.append(event)
                numbering = self.transcript.numbering.of(number)
                reader.places.append((number, numbering, len(reader.tokens)))

    async def rest(self, after: int) -> list[int]:
        """The tokens of all messages after one."""
        self.make(TOKENS)
        async with aclosing(self.transcript.read(after)) as events:
            return [t async for _, e in events if isinstance(e, Delta) for t in e.token_ids]


steps = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(steps, st.integers(0, 30), steps, steps, st.booleans())
async def test_wherever_a_reader_is_accepted_no_token_is_lost(
    first: list[int], unread: int, second: list[int], third: list[int], keeps: bool
) -> None:
    reader, a = Reader(), Instance()
    await a.read(reader, first)
    a.make(unread)
    b = Instance(reader.resumed(keeps=keeps))
    await b.read(reader, second)
    back = Instance(reader.resumed(keeps=keeps))
    if a.transcript.was_read_by(reader.resumed(keeps=keeps)):
        back = a
    await back.read(reader, third)
    for number, numbering, count in reader.places[1:]:
        accepted = [i for i in (a, b, back) if i.transcript.numbering.has(numbering, number)]
        assert accepted
        for instance in accepted:
            try:
                rest = await instance.rest(number)
            except MessagesExpired:
                continue  # said, and nothing wrong
            assert reader.tokens[:count] + rest == list(range(TOKENS))


@pytest.mark.parametrize(
    ("numbering", "sequence", "known"),
    [(9, 6, True), (9, 5, False), (9, 7, False), (8, 3, False), (5, 7, True)],
)
def test_an_instance_knows_what_was_received_before_the_stream_came_back(
    numbering: int, sequence: int, known: bool
) -> None:
    own = Numbering(own=5)
    own.accept(())
    own.accept([(8, 3), (9, 6)])
    assert own.has(numbering, sequence) == known
    assert own.of(6) == 5


def test_the_numbers_of_an_instance_are_its_own() -> None:
    numbering = Numbering()
    own = numbering.of(1)
    assert 1 <= own < 2**32
    assert numbering.of(10**6) == own
    assert numbering.has(own, 7)
    assert not numbering.has(own ^ 1, 7)
    assert Numbering().of(1) != own


@pytest.mark.parametrize(
    ("numbering", "sequence", "known"),
    [(8, 3, True), (8, 4, False), (9, 4, True), (9, 6, True), (9, 7, False), (5, 99, True)],
)
def test_numbers_of_earlier_instances_are_known_as_far_as_they_were_read(
    numbering: int, sequence: int, known: bool
) -> None:
    moved = Numbering([(8, 3), (9, 6)], own=5)
    assert moved.has(numbering, sequence) == known
    assert [moved.of(number) for number in (1, 3, 4, 6, 7)] == [8, 8, 9, 9, 5]


@pytest.mark.parametrize(
    ("numbering", "sequence", "known"),
    [(8, 3, True), (8, 5, False), (9, 5, True), (9, 9, False), (8, 9, True), (8, 10, False)],
)
def test_an_instance_that_the_stream_came_back_to_is_known_for_its_own_messages(
    numbering: int, sequence: int, known: bool
) -> None:
    assert Numbering([(8, 3), (9, 6), (8, 9)], own=5).has(numbering, sequence) == known
