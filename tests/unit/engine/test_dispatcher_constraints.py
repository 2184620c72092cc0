"""Sequences whose constraints compile before they reach the backend."""

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxmesh_engine.scheduling.capacity import Admission
from mlxmesh_engine.scheduling.request import (
    Constraint,
    ConstraintState,
    FinishReason,
    FreePrefix,
    SequenceKey,
    SequenceRequest,
    Update,
)
from mlxmesh_engine.service.dispatcher import Dispatcher, Stream
from mlxmesh_shared.errors import (
    ConstraintInvalid,
    FeatureNotSupported,
    InvalidArgument,
    MeshError,
    QueueFull,
)

CONSTRAINT = Constraint(prefix=FreePrefix((1,)))


class State:
    """A constraint's state that allows everything."""

    consumed, free, matcher = 0, True, None

    def consume(self, token: int) -> None: ...

    def fork(self) -> "State":
        return State()

    def complete(self, mask: NDArray[np.int32]) -> None: ...


class SlowCompiler:
    """Compiles a sequence once the test lets it."""

    def __init__(self) -> None:
        self.asked: dict[int, asyncio.Future[ConstraintState]] = {}

    async def walker(self, request: SequenceRequest) -> ConstraintState:
        future = self.asked[request.key[1]] = asyncio.get_running_loop().create_future()
        return await future

    async def end(self, number: int, error: MeshError | None = None) -> None:
        await asyncio.sleep(0)
        if error is None:
            self.asked[number].set_result(State())
        else:
            self.asked[number].set_exception(error)
        for _ in range(4):
            await asyncio.sleep(0)


class RecordingWorker:
    def __init__(self) -> None:
        self.commands: list[tuple[str, object]] = []

    def submit(self, request: SequenceRequest) -> None:
        assert (request.constraint is None) == (request.constraint_state is None)
        self.commands.append(("submit", request.key[1]))

    def cancel(self, key: SequenceKey) -> None:
        self.commands.append(("cancel", key[1]))

    def drop_stream(self, stream_id: int) -> None:
        self.commands.append(("drop_stream", stream_id))


@pytest.fixture
def worker() -> RecordingWorker:
    return RecordingWorker()


@pytest.fixture
def compiler() -> SlowCompiler:
    return SlowCompiler()


@pytest.fixture
async def subject(worker: RecordingWorker, compiler: SlowCompiler) -> Dispatcher:
    dispatcher = Dispatcher(worker, Admission(max_running=2, max_waiting=1))
    dispatcher.compiler = compiler
    return dispatcher


def constrained(stream: Stream, number: int) -> SequenceRequest:
    key = (stream.stream_id, number)
    return SequenceRequest(key, (1,), 5, constraint=CONSTRAINT, submitted_s=time.monotonic())


async def last_of(stream: Stream) -> Update:
    outputs = await asyncio.wait_for(stream.outbox.get(), 30)
    assert outputs is not None
    return next(iter(outputs[0]))


async def test_other_sequences_do_not_wait(
    subject: Dispatcher, worker: RecordingWorker, compiler: SlowCompiler
) -> None:
    stream = subject.open_stream()
    subject.submit(stream, constrained(stream, 1))
    subject.submit(stream, replace(constrained(stream, 2), constraint=None))
    assert worker.commands == [("submit", 2)]
    await compiler.end(1)
    assert worker.commands == [("submit", 2), ("submit", 1)]


async def test_a_cancel_drops_it(
    subject: Dispatcher, worker: RecordingWorker, compiler: SlowCompiler
) -> None:
    stream = subject.open_stream()
    subject.submit(stream, constrained(stream, 1))
    await asyncio.sleep(0)
    subject.cancel(stream, 1)
    assert (await last_of(stream)).finish_reason is FinishReason.CANCELLED
    await asyncio.sleep(0)
    assert compiler.asked[1].cancelled()
    assert not worker.commands
    subject.submit(stream, constrained(stream, 1))
    await compiler.end(1)
    assert worker.commands == [("submit", 1)]
    assert not stream.preparing


async def test_the_end_of_its_stream_drops_it(
    subject: Dispatcher, worker: RecordingWorker, compiler: SlowCompiler
) -> None:
    stream = subject.open_stream()
    subject.submit(stream, constrained(stream, 1))
    await asyncio.sleep(0)
    subject.close_stream(stream)
    await asyncio.sleep(0)
    assert compiler.asked[1].cancelled()
    assert not worker.commands
    await asyncio.wait_for(subject.drain(60), 30)


async def test_an_error_ends_only_it(
    subject: Dispatcher, worker: RecordingWorker, compiler: SlowCompiler
) -> None:
    stream = subject.open_stream()
    subject.submit(stream, constrained(stream, 1))
    await compiler.end(1, ConstraintInvalid("no", field="constraint.regex"))
    last = await last_of(stream)
    assert last.error is not None
    assert last.error.field == "constraint.regex"
    assert last.timings is not None
    assert not worker.commands
    assert not stream.active


async def test_its_deadline_counts(subject: Dispatcher, worker: RecordingWorker) -> None:
    stream = subject.open_stream()
    request = replace(constrained(stream, 1), deadline_s=time.monotonic() + 0.01)
    subject.submit(stream, request)
    last = await last_of(stream)
    assert last.error is not None
    assert last.error.reason == "DEADLINE_EXCEEDED"
    assert not worker.commands


async def test_it_occupies_its_place_and_its_id(subject: Dispatcher) -> None:
    stream = subject.open_stream()
    for number in (1, 2, 3):
        subject.submit(stream, constrained(stream, number))
    with pytest.raises(InvalidArgument):
        subject.submit(stream, constrained(stream, 1))
    with pytest.raises(QueueFull):
        subject.submit(stream, constrained(stream, 4))
    subject.close_stream(stream)


async def test_a_drain_waits_for_it(
    subject: Dispatcher, worker: RecordingWorker, compiler: SlowCompiler
) -> None:
    stream = subject.open_stream()
    subject.submit(stream, constrained(stream, 1))
    drain = asyncio.create_task(subject.drain(60))
    await compiler.end(1)
    assert worker.commands == [("submit", 1)]
    assert not drain.done()
    subject.close_stream(stream)
    await asyncio.wait_for(drain, 30)


async def test_one_that_shares_a_prefill_follows_it(
    subject: Dispatcher, worker: RecordingWorker, compiler: SlowCompiler
) -> None:
    stream = subject.open_stream()
    subject.submit(stream, constrained(stream, 1))
    shares = replace(constrained(stream, 2), shares_prefill_of=(stream.stream_id, 1))
    subject.submit(stream, shares)
    await compiler.end(2)
    assert not worker.commands
    await compiler.end(1)
    assert worker.commands == [("submit", 1), ("submit", 2)]


async def test_a_backend_without_weights_refuses_it_by_name(worker: RecordingWorker) -> None:
    subject = Dispatcher(worker, Admission(max_running=2, max_waiting=1))
    stream = subject.open_stream()
    with pytest.raises(FeatureNotSupported, match="cannot constrain") as caught:
        subject.submit(stream, constrained(stream, 1))
    assert caught.value.field == "constraint"
    assert not stream.active
