"""The thread that encodes: results, cancelled and expired calls, failures, load, death."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import pytest

from mlxmesh_engine.encoder.inputs import EncodeCall, TokenInput
from mlxmesh_engine.encoder.loader import load_encoder
from mlxmesh_engine.encoder.queue import BatchSize
from mlxmesh_engine.scheduling.capacity import Admission
from mlxmesh_engine.service import encoder_thread as thread_module
from mlxmesh_engine.service.dispatcher import Dispatcher
from mlxmesh_engine.service.encoder_thread import EncoderThread
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    EngineDraining,
    Internal,
    InvalidArgument,
    QueueFull,
)
from tests.fakes.encoder_models import Reference, pooled, write_encoder
from tests.fakes.scripted_encoder import FAILS, NOT_FINITE, ScriptedEncoder, loaded
from tests.fakes.tiny_model import BLAS


def call(*first_tokens: int, length: int = 4, **fields: Any) -> EncodeCall:
    inputs = tuple(TokenInput(np.full(length, token, np.int32)) for token in first_tokens)
    return EncodeCall(inputs, submitted_s=time.monotonic(), **fields)


def results(encoded: EncodeCall) -> list[float]:
    return [float(each[0]) for each in encoded.results if each is not None]


@pytest.fixture
async def encoder() -> ScriptedEncoder:
    return ScriptedEncoder()


@pytest.fixture
async def thread(encoder: ScriptedEncoder) -> AsyncIterator[EncoderThread]:
    running = EncoderThread(loaded(encoder), max_running=2, max_waiting=1)
    await running.start(lambda *_: None)
    yield running
    encoder.go.set()
    await running.stop()


async def began(encoder: ScriptedEncoder) -> None:
    assert await asyncio.to_thread(encoder.began.wait, 20)
    encoder.began.clear()


async def test_calls_get_their_own_results_in_order(thread, encoder):
    calls = [call(*range(10 * i, 10 * i + 5), length=1 + i * 7 % 5) for i in range(20)]
    await asyncio.gather(*map(thread.encode, calls))
    assert [results(each) for each in calls] == [
        [float(10 * i + k) for k in range(5)] for i in range(20)
    ]
    assert len(encoder.batches) < 20
    assert thread.prompt_tokens == sum(each.tokens for each in calls)


async def test_a_cancelled_call_leaves_and_the_others_go_on(thread, encoder):
    encoder.go.clear()
    first = asyncio.create_task(thread.encode(call(1)))
    await began(encoder)
    cancelled = asyncio.create_task(thread.encode(call(2, 3)))
    other = call(4)
    running = asyncio.create_task(thread.encode(other))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    encoder.go.set()
    await asyncio.gather(first, running)
    assert results(other) == [4.0]
    assert encoder.batches == [[1], [4]]


async def test_a_batch_that_nobody_waits_for_ends_early(thread, encoder):
    encoder.go.clear()
    only = asyncio.create_task(thread.encode(call(1)))
    await began(encoder)
    only.cancel()
    await asyncio.wait([only])
    encoder.go.set()
    await thread.encode(call(2))
    assert encoder.batches == [[1], [2]]
    assert thread.steps == 1


async def test_an_expired_call(thread, encoder):
    encoder.go.clear()
    late = call(1, deadline_s=time.monotonic() + 0.05)
    with pytest.raises(DeadlineExceeded):
        await thread.encode(late)
    encoder.go.set()
    await thread.encode(call(2))


async def test_an_input_that_fails_fails_only_its_call(thread, encoder):
    encoder.go.clear()
    first = asyncio.create_task(thread.encode(call(1)))
    await began(encoder)
    good, bad = call(2, 3), call(4, FAILS)
    running = [asyncio.create_task(thread.encode(each)) for each in (good, bad)]
    await asyncio.sleep(0)
    encoder.go.set()
    await asyncio.gather(first, running[0])
    assert results(good) == [2.0, 3.0]
    with pytest.raises(Internal, match=r"inputs\[1\]"):
        await running[1]
    assert not thread.dead.done()


async def test_a_result_that_is_not_finite_names_the_input_and_the_dtype(thread):
    good, bad = call(1), call(2, NOT_FINITE)
    outcomes = await asyncio.gather(thread.encode(good), thread.encode(bad), return_exceptions=True)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], Internal)
    assert "inputs[1]" in outcomes[1].message
    assert "float16" in outcomes[1].message


async def test_the_thread_dies_when_every_input_fails(thread):
    for _ in range(7):
        with pytest.raises(Internal):
            await thread.encode(call(FAILS))
    last = asyncio.create_task(thread.encode(call(FAILS)))
    with pytest.raises(RuntimeError):
        await asyncio.wait_for(asyncio.shield(thread.dead), 20)
    last.cancel()


async def test_the_load_counts_calls(thread, encoder):
    assert thread.load.idle_s(time.monotonic()) >= 0
    encoder.go.clear()
    tasks = [asyncio.create_task(thread.encode(call(1)))]
    await began(encoder)
    await asyncio.sleep(0.01)
    tasks += [
        asyncio.create_task(thread.encode(each))
        for each in (call(2, 3), call(4), call(5, background=True))
    ]
    await asyncio.sleep(0)
    load = thread.load
    assert (load.running, load.waiting, load.background_waiting) == (1, 2, 1)
    assert (load.max_running, load.max_waiting, load.idle_since_s) == (2, 1, None)
    assert load.longest_wait_s(time.monotonic()) > 0
    encoder.go.set()
    await asyncio.gather(*tasks)
    load = thread.load
    assert (load.running, load.waiting, load.background_running) == (0, 0, 0)
    assert load.prompt_tokens == 5 * 4
    assert load.tokens_per_second == 5 * 4
    assert load.idle_since_s is not None


async def test_too_many_tokens_wait(thread, encoder, monkeypatch):
    monkeypatch.setattr(thread_module, "MAX_QUEUED_TOKENS", 10)
    encoder.go.clear()
    first = asyncio.create_task(thread.encode(call(1, length=500)))
    await began(encoder)
    with pytest.raises(QueueFull):
        await thread.encode(call(2))
    encoder.go.set()
    await first
    await thread.encode(call(3))


async def test_progress_is_reported_while_a_batch_runs(thread, encoder):
    async with asyncio.timeout(20):
        while thread.time_since_progress_s:  # until it waits for a call
            await asyncio.sleep(0.01)
    encoder.go.clear()
    running = asyncio.create_task(thread.encode(call(1)))
    await began(encoder)
    await asyncio.sleep(0.05)
    assert thread.time_since_progress_s >= 0.04
    encoder.go.set()
    await running


async def test_calls_beyond_the_limits_are_refused_and_a_drain_lets_the_others_finish(
    thread, encoder
):
    dispatcher = Dispatcher(thread, Admission(max_running=2, max_waiting=1))
    encoder.go.clear()
    calls = [call(i, caller=f"c{i}") for i in range(3)]
    running = [asyncio.create_task(dispatcher.encode(each, thread)) for each in calls]
    await began(encoder)
    with pytest.raises(QueueFull):
        await dispatcher.encode(call(9, caller="c9"), thread)
    draining = asyncio.create_task(dispatcher.drain(30))
    await asyncio.sleep(0)
    with pytest.raises(EngineDraining):
        await dispatcher.encode(call(9), thread)
    assert not draining.done()
    encoder.go.set()
    await asyncio.gather(*running, draining)
    assert [results(each) for each in calls] == [[0.0], [1.0], [2.0]]


async def test_what_loading_raises(tmp_path: Path):
    def fail() -> NoReturn:
        raise InvalidArgument("no such model", field="model_dir")

    with pytest.raises(InvalidArgument, match="no such model"):
        await EncoderThread(fail).start(lambda *_: None)


async def test_a_real_model_beside_others(tmp_path: Path):
    """Many calls at once, small batches: each equals the reference."""
    path = write_encoder(tmp_path / "m", "bert")
    reference = Reference(path)
    running = EncoderThread(
        lambda: load_encoder(path, kind="embedding", blas=BLAS, available_bytes=lambda: 2**33),
        batch_size=BatchSize(max_tokens=256),
    )
    facts = await running.start(lambda *_: None)
    rng = np.random.default_rng(0)
    calls = [
        EncodeCall(
            tuple(
                TokenInput(rng.integers(2, facts.vocab_size, length).astype(np.int32))
                for length in rng.integers(1, 65, 6)
            ),
            caller=str(i % 3),
        )
        for i in range(12)
    ]
    try:
        await asyncio.gather(*map(running.encode, calls))
    finally:
        await running.stop()
    for each in calls:
        expected = [pooled(reference.hidden(one.token_ids.tolist()), "mean") for one in each.inputs]
        np.testing.assert_allclose(cast("Any", each.results), expected, atol=3e-5)
