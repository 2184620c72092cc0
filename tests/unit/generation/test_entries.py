"""How long a generation runs without a reader."""

import asyncio
from contextlib import aclosing
from typing import Any, cast

import pytest

from mlxmesh_generation.domain.request import Delta, GenerationRequest, PromptText
from mlxmesh_generation.streams.entries import MAX_WAITING_BYTES, EntryIndex
from mlxmesh_generation.streams.retention import RetentionLimits
from mlxmesh_generation.streams.stream import EventBuffer
from mlxmesh_generation.streams.transcript import Transcript
from mlxmesh_shared.errors import Cancelled, MeshError
from mlxmesh_shared.reference import ModelReference


class Running:
    """What an entry needs of a generation, without one."""

    def __init__(self) -> None:
        self.events = EventBuffer()
        self.error: MeshError | None = None

    def start(self) -> None:
        self.events.put(Delta("a", (1,)))

    def fail(self, error: MeshError) -> None:
        self.error = error
        self.events.fail(error)


def started(running: Running, *, detached: bool, **limits: Any) -> Transcript:
    options = {"detached_timeout_s": 0.0, "max_detached_s": 3600.0, **limits}
    index = EntryIndex(retained=RetentionLimits(), max_unread_bytes=2**24, **options)
    request = GenerationRequest(
        request_id="mine",
        model=ModelReference.parse("pocket"),
        input=PromptText("x"),
        digest=b"x",
        detached=detached,
    )
    entry = index.add(request, resumed=False)
    running.events = EventBuffer(entry.on_backlog)
    entry.open(cast("Any", running), None)
    return entry.start()


async def leave(transcript: Transcript) -> None:
    async with aclosing(transcript.read()) as events:
        await anext(events)
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_that_is_retained_ends_after_its_time_without_a_reader() -> None:
    running = Running()
    await leave(started(running, detached=False))
    assert isinstance(running.error, Cancelled)


async def test_a_detached_one_goes_on() -> None:
    running = Running()
    await leave(started(running, detached=True))
    assert running.error is None


async def test_a_detached_one_does_not_go_on_for_ever() -> None:
    running = Running()
    await leave(started(running, detached=True, max_detached_s=0.0))
    assert isinstance(running.error, Cancelled)


@pytest.mark.parametrize("detached", [True, False])
async def test_the_output_of_a_detached_one_does_not_wait(detached: bool) -> None:
    running = Running()
    transcript = started(running, detached=detached, detached_timeout_s=3600.0)
    await leave(transcript)
    for number in range(MAX_WAITING_BYTES // 1000):
        running.events.put(Delta("x" * 2000, (number,) * 600))
    assert (len(running.events.waiting) < 40) == detached
    assert len(transcript.events()) == 1 + MAX_WAITING_BYTES // 1000
