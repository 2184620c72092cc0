"""How a stream of a generation ends at the client."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_client import generations
from mlxmesh_client.generations import Position, resuming
from mlxmesh_shared.errors import Internal, MeshError, ServiceUnavailable

LAST = pb.GenerateResponse(
    sequence=2,
    finished=pb.Finished(
        finish_reason=pb.FINISH_REASON_STOP, total_usage=pb.Usage(prompt_tokens=3)
    ),
)


class Call:
    """A call that sends its last message, and its status when the test says so."""

    def __init__(self, error: MeshError | None = None) -> None:
        self.error = error
        self.status = asyncio.Event()
        self.ended = ""

    async def open(self, after: Position) -> AsyncGenerator[pb.GenerateResponse]:
        try:
            yield LAST
            await self.status.wait()
            if self.error is not None:
                raise self.error
            self.ended = "complete"
        finally:
            self.ended = self.ended or "cancelled"


async def events_of(call: Call) -> list[int]:
    return [event.sequence async for event in resuming([call.open], attachable=False)]


async def test_a_complete_call_is_not_cancelled() -> None:
    call = Call()
    events = asyncio.create_task(events_of(call))
    await asyncio.sleep(0)
    call.status.set()
    assert await events == [2]
    assert call.ended == "complete"


async def test_an_error_after_the_last_event_is_none() -> None:
    call = Call(Internal("broken"))
    call.status.set()
    assert await events_of(call) == [2]


async def test_a_status_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "STATUS_TIMEOUT_S", 0.01)
    call = Call()
    assert await events_of(call) == [2]
    assert call.ended == "cancelled"


async def test_a_caller_that_leaves_early_cancels() -> None:
    call = Call()
    stream = resuming([call.open], attachable=False)
    async for _ in stream:
        break
    with suppress(StopAsyncIteration):
        await stream.aclose()
    assert call.ended == "cancelled"


async def test_a_stream_goes_on_after_its_last_message_and_says_who_numbered_that() -> None:
    asked: list[Position] = []

    async def lost(after: Position) -> AsyncGenerator[pb.GenerateResponse]:
        asked.append(after)
        for sequence, numbering in ((6, 9), (7, 4)):
            yield pb.GenerateResponse(sequence=sequence, numbering=numbering)
        raise ServiceUnavailable("the gateway is gone")

    async def other(after: Position) -> AsyncGenerator[pb.GenerateResponse]:
        asked.append(after)
        yield LAST

    stream = resuming([lost, other], after=(5, 9), attachable=True)
    events = [(event.sequence, event.numbering) async for event in stream]
    assert events == [(6, 9), (7, 4), (2, 0)]
    assert asked == [(5, 9), (7, 4)]
