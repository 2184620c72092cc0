"""The MLX thread: it loads, delivers outputs, and reports its death."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlxmesh_engine.forward.forward_pass import Forward
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.request import (
    FinishReason,
    Load,
    SequenceRequest,
    StepOutputs,
)
from mlxmesh_engine.service.mlx_thread import MlxThread
from mlxmesh_shared.errors import DeadlineExceeded, EngineFailed, InvalidArgument
from tests.fakes.adapter_rig import write_source
from tests.fakes.engine_rig import load_model
from tests.fakes.failing_forward import FailingForward, Rows


class Listener:
    """Collects delivered outputs."""

    def __init__(self) -> None:
        self.outputs: asyncio.Queue[tuple[StepOutputs, Load]] = asyncio.Queue()

    def deliver(self, outputs: StepOutputs, load: Load) -> None:
        self.outputs.put_nowait((outputs, load))

    async def until_last(self, sequence_id: int) -> tuple[list[int], Any]:
        tokens: list[int] = []
        while True:
            outputs, _ = await asyncio.wait_for(self.outputs.get(), 30)
            for updates in outputs.values():
                for update in updates:
                    if update.sequence_id != sequence_id:
                        continue
                    tokens += update.token_ids
                    if update.last:
                        return tokens, update


class HangsUntil:
    """A forward pass whose decode steps hang until the event."""

    def __init__(self, forward: Forward, event: threading.Event) -> None:
        self._forward = forward
        self._event = event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._forward, name)

    def decode(self, inputs: mx.array, cache: Any) -> mx.array:
        self._event.wait(10)
        return self._forward.decode(inputs, cache)


@pytest.fixture
async def listener() -> Listener:
    return Listener()


@pytest.fixture
async def thread(tiny_model: Path, listener: Listener) -> AsyncIterator[MlxThread]:
    subject = MlxThread(lambda: load_model(tiny_model))
    await subject.start(listener.deliver)
    yield subject
    await subject.stop()


def broken(tiny_model: Path, length: int) -> MlxThread:
    def load() -> LoadedModel:
        loaded = load_model(tiny_model)
        error = RuntimeError("[malloc] Unable to allocate")

        def fails_at(rows: Rows) -> bool:
            return any(len(row) == length for row in rows)

        return replace(loaded, model=FailingForward(loaded.model, fails_at, error))

    return MlxThread(load)


async def test_a_sequence_runs_to_its_end(thread: MlxThread, listener: Listener) -> None:
    thread.submit(SequenceRequest((1, 7), (4, 5, 6), 9))
    tokens, last = await listener.until_last(7)
    assert len(tokens) == 9
    assert last.finish_reason is FinishReason.LENGTH
    assert thread.steps > 9
    assert thread.load.tokens_per_second > 0


async def test_many_at_once_from_two_streams(thread: MlxThread, listener: Listener) -> None:
    for number in range(1, 21):
        thread.submit(SequenceRequest((number % 2, number), (4, 5, number), 5))
    thread.cancel((1, 1))
    ends = 0
    while ends < 20:
        outputs, load = await asyncio.wait_for(listener.outputs.get(), 30)
        ends += sum(update.last for updates in outputs.values() for update in updates)
        assert load.running <= 20
    assert thread.load.running == 0


async def test_an_idle_thread_sleeps_and_counts_as_live(
    thread: MlxThread, listener: Listener
) -> None:
    thread.submit(SequenceRequest((1, 7), (4, 5, 6), 9))
    await listener.until_last(7)
    await asyncio.sleep(0.2)
    before = thread.steps
    await asyncio.sleep(1.2)
    assert thread.steps == before
    assert thread.time_since_progress_s == 0
    assert thread.load.tokens_per_second == 0
    thread.submit(SequenceRequest((1, 8), (4, 5, 6), 9))
    tokens, _ = await listener.until_last(8)
    assert len(tokens) == 9


async def test_a_step_that_hangs_is_seen_from_the_command_on(
    tiny_model: Path, listener: Listener
) -> None:
    hangs = threading.Event()

    def load() -> LoadedModel:
        loaded = load_model(tiny_model)
        return replace(loaded, model=HangsUntil(loaded.model, hangs))

    subject = MlxThread(load)
    await subject.start(listener.deliver)
    await asyncio.sleep(0.3)
    assert subject.time_since_progress_s == 0
    before_s = time.monotonic()
    subject.submit(SequenceRequest((1, 1), (5, 6, 7), 3))
    while subject.time_since_progress_s < 0.4:
        await asyncio.sleep(0.01)
    assert subject.time_since_progress_s <= time.monotonic() - before_s
    hangs.set()
    await listener.until_last(1)
    await subject.stop()


async def test_start_raises_the_error_of_loading(tmp_path: Path) -> None:
    subject = MlxThread(lambda: load_model(tmp_path))
    with pytest.raises(InvalidArgument):
        await subject.start(Listener().deliver)


async def test_a_prompt_that_breaks_mlx_fails_alone(tiny_model: Path, listener: Listener) -> None:
    subject = broken(tiny_model, 12)
    await subject.start(listener.deliver)
    subject.submit(SequenceRequest((1, 1), (5, 6, 7), 30))
    subject.submit(SequenceRequest((1, 2), tuple(range(3, 16)), 5))
    _, last = await listener.until_last(2)
    assert isinstance(last.error, EngineFailed)
    tokens, last = await listener.until_last(1)
    assert last.finish_reason is FinishReason.LENGTH
    assert tokens
    await subject.stop()


async def test_if_every_step_breaks_sequences_fail_and_then_the_thread_dies(
    tiny_model: Path, listener: Listener
) -> None:
    subject = broken(tiny_model, 1)
    await subject.start(listener.deliver)
    for number in range(1, 8):
        subject.submit(SequenceRequest((1, number), (5, 6, 7), 30))
        _, last = await listener.until_last(number)
        assert isinstance(last.error, EngineFailed)
    assert not subject.dead.done()
    subject.submit(SequenceRequest((1, 8), (5, 6, 7), 30))
    with pytest.raises(EngineFailed, match="every sequence fails"):
        await asyncio.wait_for(subject.dead, 30)
    await subject.stop()


async def test_adapters_are_read_while_the_thread_sleeps(
    thread: MlxThread, listener: Listener, tiny_model: Path, tmp_path: Path
) -> None:
    source = write_source(tmp_path, tiny_model, seed=1)
    request = SequenceRequest((1, 1), (4, 5, 6), 9)
    thread.submit(request)
    base, _ = await listener.until_last(1)
    thread.submit(replace(request, key=(1, 2), adapter=source))
    tokens, last = await listener.until_last(2)
    assert last.finish_reason is FinishReason.LENGTH
    assert len(tokens) == 9
    assert tokens != base
    assert thread.load.adapters == (source.digest,)
    assert thread.time_since_progress_s < 10


class ReadsUntil:
    """A forward pass whose adapters are not ready before the event."""

    def __init__(self, forward: Forward, event: threading.Event) -> None:
        self._forward = forward
        self._event = event
        self.adapters = self

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._forward, name, None)
        return getattr(self._forward.adapters, name) if found is None else found

    def prepare(self, layers: Any) -> Any:
        self._event.wait(30)
        return self._forward.adapters.prepare(layers)


async def test_the_deadline_of_a_sequence_that_waits_for_its_adapter(
    tiny_model: Path, listener: Listener, tmp_path: Path
) -> None:
    event = threading.Event()

    def load() -> LoadedModel:
        loaded = load_model(tiny_model)
        return replace(loaded, model=ReadsUntil(loaded.model, event))

    subject = MlxThread(load)
    await subject.start(listener.deliver)
    request = SequenceRequest((1, 1), (4, 5), 9, adapter=write_source(tmp_path, tiny_model, seed=1))
    subject.submit(replace(request, deadline_s=time.monotonic() + 0.2))
    subject.submit(replace(request, key=(1, 2)))
    _, last = await listener.until_last(1)
    assert isinstance(last.error, DeadlineExceeded)
    subject.submit(SequenceRequest((1, 3), (4, 5), 9))
    assert len((await listener.until_last(3))[0]) == 9
    event.set()
    assert len((await listener.until_last(2))[0]) == 9
    await subject.stop()
