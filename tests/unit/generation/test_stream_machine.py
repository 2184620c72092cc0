"""A generation's messages under any order of writing, reading, leaving and coming again."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlxmesh_generation.domain.request import Delta, Event, Finished, FinishReason, TotalUsage
from mlxmesh_generation.streams.stream import MAX_DELTA_TOKENS, EventBuffer
from mlxmesh_generation.streams.transcript import Transcript


class Stream(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.buffer = EventBuffer()
        self.transcript = Transcript(self.buffer, keeps=True)
        self.written: list[int] = []
        self.got: dict[int, Event] = {}
        self.reader: AsyncGenerator[tuple[int, Event]] | None = None
        self.next_number = 1

    @precondition(lambda self: not self.buffer.ended)
    @rule(tokens=st.integers(1, 2 * MAX_DELTA_TOKENS))
    def write(self, tokens: int) -> None:
        new = tuple(range(len(self.written), len(self.written) + tokens))
        self.written += new
        self.buffer.put(Delta("x" * tokens, new))

    @precondition(lambda self: not self.buffer.ended)
    @rule()
    def finish(self) -> None:
        self.buffer.put(
            Finished(
                FinishReason.LENGTH, 1, 0, len(self.written), total=TotalUsage(len(self.written), 0)
            )
        )

    @rule(data=st.data())
    def come_again(self, data: st.DataObject) -> None:
        after = data.draw(st.integers(0, len(self.got)))
        self.reader = self.transcript.read(after)
        self.next_number = after + 1

    @precondition(lambda self: self.reader is not None)
    @rule()
    def read(self) -> None:
        assert self.reader is not None
        try:
            number, event = self.loop.run_until_complete(self._soon(anext(self.reader)))
        except (TimeoutError, StopAsyncIteration):
            self.reader = None
            return
        assert number == self.next_number
        assert self.got.setdefault(number, event) == event
        self.next_number += 1

    @invariant()
    def nothing_is_lost_repeated_or_reordered(self) -> None:
        events = [self.got[number] for number in sorted(self.got)]
        tokens = [
            token for event in events if isinstance(event, Delta) for token in event.token_ids
        ]
        assert sorted(self.got) == list(range(1, len(self.got) + 1))
        assert tokens == self.written[: len(tokens)]

    def teardown(self) -> None:
        if self.reader is not None:
            self.loop.run_until_complete(self.reader.aclose())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    @staticmethod
    async def _soon(waiting: Any) -> Any:
        """What is there now; nothing more is written meanwhile."""
        async with asyncio.timeout(0):
            return await waiting


TestStream = Stream.TestCase
