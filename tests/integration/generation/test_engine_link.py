"""The one stream to an engine: shared, opened again, and proof against one sequence's trouble."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mlxmesh_generation.domain.request import GenerationRequest, PromptText
from mlxmesh_generation.placement.engine_link import LIVENESS_TIMEOUT_S, EngineLink
from mlxmesh_generation.placement.sequence import EngineOutput, SequenceRequest
from mlxmesh_shared.errors import EngineLost, Internal, MeshError
from mlxmesh_shared.reference import ModelReference
from tests.fakes.engine import FakeEngine
from tests.fakes.waiting import until


class Sink:
    """Remembers what it was told."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.breaks = breaks
        self.outputs: list[EngineOutput] = []
        self.lost: MeshError | None = None

    @property
    def ended(self) -> bool:
        return bool(self.outputs) and self.outputs[-1].finish_reason is not None

    def on_output(self, output: EngineOutput) -> None:
        if self.breaks and output.token_ids:
            raise RuntimeError("a fault in one generation")
        self.outputs.append(output)

    def on_lost(self, error: MeshError) -> None:
        self.lost = error


def submit(max_tokens: int, *, flex: bool = False) -> SequenceRequest:
    request = GenerationRequest("r", ModelReference("pocket"), PromptText("x"), flex=flex)
    return SequenceRequest(request, [1, 2, 3], max_tokens=max_tokens, seed=0)


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine().running() as engine:
        yield engine


@pytest.fixture
async def link(engine: FakeEngine) -> AsyncIterator[EngineLink]:
    link = EngineLink(engine_id="engine-1", address=engine.instance.address)
    running = asyncio.create_task(link.run())
    await until(lambda: link.connected)
    yield link
    link.retire()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_fault_in_one_generation_leaves_the_others(
    engine: FakeEngine, link: EngineLink, caplog: pytest.LogCaptureFixture
) -> None:
    faulty, good = Sink(breaks=True), Sink()
    link.submit(submit(900), faulty)
    link.submit(submit(50), good)
    await until(lambda: good.ended)
    assert isinstance(faulty.lost, Internal)
    assert "fault in one generation" not in str(faulty.lost)
    assert "fault in one generation" in caplog.text
    await until(lambda: engine.sequences == 0)
    await until(lambda: link.replica().outstanding == 0)


async def test_a_dropped_sequence_is_heard_of_no_more(engine: FakeEngine, link: EngineLink) -> None:
    dropped, other = Sink(), Sink()
    sequence = link.submit(submit(900), dropped)
    await until(lambda: len(dropped.outputs) > 2)
    sequence.drop()
    heard = len(dropped.outputs)
    link.submit(submit(5), other)
    await until(lambda: other.ended and engine.sequences == 0)
    assert len(dropped.outputs) == heard


async def test_what_others_do_on_the_engine_counts(engine: FakeEngine, link: EngineLink) -> None:
    engine.may_step.clear()
    other_link = EngineLink(engine_id="engine-1", address=engine.instance.address)
    running = asyncio.create_task(other_link.run())
    await until(lambda: other_link.connected)
    theirs, ours = [Sink() for _ in range(3)], Sink()
    for sink in theirs:
        other_link.submit(submit(5), sink)
    await until(lambda: engine.sequences == 3)
    link.submit(submit(5), ours)
    await until(lambda: ours.outputs != [])
    assert link.replica().outstanding == 4
    assert link.replica().capacity == 64 + 256
    other_link.retire()
    engine.may_step.set()
    await until(lambda: all(sink.ended for sink in theirs))
    await asyncio.wait_for(running, 30)  # retired and idle, it ends by itself


async def test_background_sequences_are_no_load_for_others(
    engine: FakeEngine, link: EngineLink
) -> None:
    engine.may_step.clear()
    other_link = EngineLink(engine_id="engine-1", address=engine.instance.address)
    running = asyncio.create_task(other_link.run())
    await until(lambda: other_link.connected)
    theirs, ours = [Sink() for _ in range(3)], Sink()
    for sink in theirs:
        other_link.submit(submit(5, flex=True), sink)
    await until(lambda: engine.sequences == 3)
    link.submit(submit(5, flex=True), ours)
    await until(lambda: ours.outputs != [])
    assert link.replica().outstanding == 0
    assert link.background_replica().outstanding == 4
    assert link.idle_s(time.monotonic()) == 0
    other_link.retire()
    engine.may_step.set()
    await asyncio.wait_for(running, 30)


async def test_a_lost_stream_tells_its_sequences_and_is_opened_again(
    engine: FakeEngine, link: EngineLink
) -> None:
    sink = Sink()
    link.submit(submit(900), sink)
    await until(lambda: len(sink.outputs) > 2)
    engine.break_streams()
    await until(lambda: sink.lost is not None)
    assert isinstance(sink.lost, EngineLost)
    await until(lambda: link.connected)
    again = Sink()
    link.submit(submit(5), again)
    await until(lambda: again.ended)


async def test_a_crowd_that_leaves_at_once_is_told_of_in_one_message(
    engine: FakeEngine, link: EngineLink
) -> None:
    sequences = [link.submit(submit(900), Sink()) for _ in range(50)]
    staying = Sink()
    link.submit(submit(5), staying)
    await until(lambda: len(engine.submits) == 51)
    for sequence in sequences:
        sequence.drop()
    await until(lambda: staying.ended and engine.sequences == 0)
    assert len(engine.cancels) == 1
    await until(lambda: link.replica().outstanding == 0)


async def test_an_idle_engine_may_be_silent_but_not_one_with_sequences(
    engine: FakeEngine, link: EngineLink
) -> None:
    engine.silent = True
    await asyncio.sleep(1.5 * LIVENESS_TIMEOUT_S)
    assert link.connected
    engine.may_step.clear()
    sink = Sink()
    link.submit(submit(5), sink)
    await until(lambda: sink.lost is not None)
    assert isinstance(sink.lost, EngineLost)
    engine.silent = False
    engine.may_step.set()
    await until(lambda: link.connected)


async def test_a_prefill_is_shared_with_a_running_sequence_of_the_same_stream(
    engine: FakeEngine, link: EngineLink
) -> None:
    engine.may_step.clear()
    first = link.submit(submit(5), Sink())
    link.submit(replace(submit(5), shares_prefill_of=first), Sink())
    other = EngineLink(engine_id="engine-1", address=engine.instance.address)
    other.submit(replace(submit(5), shares_prefill_of=first), Sink())
    first.drop()
    link.submit(replace(submit(5), shares_prefill_of=first), Sink())
    await until(lambda: len(engine.submits) == 3)
    shared = [
        each.shares_prefill_of if each.HasField("shares_prefill_of") else None
        for each in engine.submits
    ]
    assert shared == [None, engine.submits[0].sequence_id, None]
