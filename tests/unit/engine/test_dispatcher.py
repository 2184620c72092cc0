import asyncio
from dataclasses import replace

import pytest

from mlxmesh_engine.scheduling.capacity import Admission
from mlxmesh_engine.scheduling.request import (
    FinishReason,
    Load,
    SequenceKey,
    SequenceRequest,
    Update,
)
from mlxmesh_engine.service.dispatcher import Dispatcher, Stream
from mlxmesh_engine.service.serve import emit_load
from mlxmesh_shared.errors import EngineDraining, InvalidArgument, QueueFull

LOAD = Load(1, 0, 2, 1)


class RecordingWorker:
    """Records commands and does nothing else."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, object]] = []

    def submit(self, request: SequenceRequest) -> None:
        self.commands.append(("submit", request.key))

    def cancel(self, key: SequenceKey) -> None:
        self.commands.append(("cancel", key))

    def drop_stream(self, stream_id: int) -> None:
        self.commands.append(("drop_stream", stream_id))


class LoadedBackend:
    """Has a load, and counts how often it is read."""

    def __init__(self) -> None:
        self.load_now = LOAD
        self.reads = 0

    @property
    def load(self) -> Load:
        self.reads += 1
        return self.load_now


@pytest.fixture
def worker() -> RecordingWorker:
    return RecordingWorker()


@pytest.fixture
async def subject(worker: RecordingWorker) -> Dispatcher:
    return Dispatcher(worker, Admission(max_running=2, max_waiting=1))


def sequence(stream: Stream, number: int) -> SequenceRequest:
    return SequenceRequest((stream.stream_id, number), (1,), 5)


def finish(stream: Stream, number: int) -> dict[int, list[Update]]:
    return {stream.stream_id: [Update(number, finish_reason=FinishReason.STOP)]}


async def test_outputs_go_to_their_stream(subject: Dispatcher) -> None:
    one, two = subject.open_stream(), subject.open_stream()
    for stream in (one, two):
        subject.submit(stream, sequence(stream, 1))
    subject.deliver({one.stream_id: [Update(1, token_ids=(4,))]}, LOAD)
    subject.deliver({two.stream_id: [Update(1, token_ids=(5,))]}, LOAD)
    assert await one.outbox.get() == ([Update(1, token_ids=(4,))], LOAD)
    assert await two.outbox.get() == ([Update(1, token_ids=(5,))], LOAD)


async def test_a_full_engine_refuses_until_a_sequence_ends(subject: Dispatcher) -> None:
    stream = subject.open_stream()
    for number in (1, 2, 3):
        subject.submit(stream, sequence(stream, number))
    with pytest.raises(QueueFull):
        subject.submit(stream, sequence(stream, 4))
    subject.deliver(finish(stream, 2), LOAD)
    subject.submit(stream, sequence(stream, 4))


async def test_an_id_in_use_is_refused_and_free_again_after_its_end(
    subject: Dispatcher,
) -> None:
    stream = subject.open_stream()
    subject.submit(stream, sequence(stream, 1))
    with pytest.raises(InvalidArgument) as caught:
        subject.submit(stream, sequence(stream, 1))
    assert caught.value.field == "sequence_id"
    subject.deliver(finish(stream, 1), LOAD)
    subject.submit(stream, sequence(stream, 1))


async def test_cancel_of_an_unknown_or_ended_sequence_does_nothing(
    subject: Dispatcher, worker: RecordingWorker
) -> None:
    stream = subject.open_stream()
    subject.cancel(stream, 9)
    subject.submit(stream, sequence(stream, 1))
    subject.cancel(stream, 1)
    subject.deliver(finish(stream, 1), LOAD)
    subject.cancel(stream, 1)
    assert [name for name, _ in worker.commands] == ["submit", "cancel"]


async def test_a_closed_stream_releases_its_slots(
    subject: Dispatcher, worker: RecordingWorker
) -> None:
    stream = subject.open_stream()
    for number in (1, 2, 3):
        subject.submit(stream, sequence(stream, number))
    subject.close_stream(stream)
    assert worker.commands[-1] == ("drop_stream", stream.stream_id)
    # Outputs that were under way when it closed change nothing.
    subject.deliver(finish(stream, 1), LOAD)
    other = subject.open_stream()
    for number in (1, 2, 3):
        subject.submit(other, sequence(other, number))
    with pytest.raises(QueueFull):
        subject.submit(other, sequence(other, 4))


async def test_a_drain_lets_sequences_finish_and_then_ends_the_streams(
    subject: Dispatcher,
) -> None:
    stream = subject.open_stream()
    subject.submit(stream, sequence(stream, 1))
    drain = asyncio.create_task(subject.drain(60))
    await asyncio.sleep(0)
    with pytest.raises(EngineDraining):
        subject.submit(stream, sequence(stream, 2))
    assert not drain.done()
    subject.deliver(finish(stream, 1), LOAD)
    await asyncio.wait_for(drain, 30)
    assert await stream.outbox.get() is not None
    assert await stream.outbox.get() is None
    late = subject.open_stream()
    assert await late.outbox.get() is None


async def test_a_drain_ends_after_its_grace(subject: Dispatcher) -> None:
    stream = subject.open_stream()
    subject.submit(stream, sequence(stream, 1))
    await asyncio.wait_for(subject.drain(0.01), 30)
    assert await stream.outbox.get() is None


async def test_wait_idle_returns_once_all_sequences_ended(subject: Dispatcher) -> None:
    stream = subject.open_stream()
    await stream.wait_idle()
    subject.submit(stream, sequence(stream, 1))
    idle = asyncio.create_task(stream.wait_idle())
    await asyncio.sleep(0)
    assert not idle.done()
    subject.deliver(finish(stream, 1), LOAD)
    await asyncio.wait_for(idle, 30)


async def test_the_load_also_goes_to_streams_without_outputs(subject: Dispatcher) -> None:
    busy, quiet = subject.open_stream(), subject.open_stream()
    subject.submit(busy, sequence(busy, 1))
    subject.publish_load(LOAD)
    for stream in (busy, quiet):
        assert await asyncio.wait_for(stream.outbox.get(), 30) == ([], LOAD)


async def test_the_load_is_published_while_busy_and_then_until_it_is_steady(
    subject: Dispatcher,
) -> None:
    backend = LoadedBackend()
    stream = subject.open_stream()
    emitting = asyncio.create_task(emit_load(subject, backend, interval_s=0.001))
    while backend.reads < 3:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.1)
    # Idle with an unchanged load: nothing more is read or sent.
    quiet = backend.reads
    await asyncio.sleep(0.1)
    assert backend.reads == quiet
    await stream.outbox.get()

    subject.submit(stream, sequence(stream, 1))
    await asyncio.wait_for(stream.outbox.get(), 30)
    busy = backend.reads
    await asyncio.wait_for(stream.outbox.get(), 30)
    assert backend.reads > busy

    backend.load_now = replace(LOAD, running=0)
    subject.deliver(finish(stream, 1), LOAD)
    last = None
    async with asyncio.timeout(30):
        while last != backend.load_now:
            _, last = await stream.outbox.get() or ([], None)
    emitting.cancel()
    await asyncio.gather(emitting, return_exceptions=True)
