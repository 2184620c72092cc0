"""The simulated engine: fixed tokens, configured times, injected faults."""

import asyncio
import json
import math
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest

from mlxmesh_engine.scheduling.request import (
    FinishReason,
    Load,
    LogprobOptions,
    Sampling,
    SequenceRequest,
    StepOutputs,
    Update,
)
from mlxmesh_engine.service.simulated import SimulatedEngine
from mlxmesh_engine.service.simulated_model import Pace, SimulatedModel
from mlxmesh_shared.errors import EngineFailed, InvalidArgument

MODEL = SimulatedModel(vocab_size=50, context_tokens=100, eos_token_ids=frozenset({0, 1}))
AT_ONCE = Pace(step_s=0, prefill_s_per_token=0)


class Heard:
    """Collects an engine's updates by sequence."""

    def __init__(self) -> None:
        self.updates: dict[int, list[Update]] = {}
        self.loads: list[Load] = []
        self._outputs = asyncio.Event()

    def deliver(self, outputs: StepOutputs, load: Load) -> None:
        self.loads.append(load)
        for update in (update for updates in outputs.values() for update in updates):
            self.updates.setdefault(update.sequence_id, []).append(update)
        self._outputs.set()

    async def end_of(self, number: int) -> Update:
        async with asyncio.timeout(30):
            while not (self.updates.get(number) and self.updates[number][-1].last):
                self._outputs.clear()
                await self._outputs.wait()
        return self.updates[number][-1]

    def tokens(self, number: int) -> list[int]:
        return [token for update in self.updates[number] for token in update.token_ids]


@asynccontextmanager
async def engine(
    pace: Pace = AT_ONCE, *, max_running: int = 8
) -> AsyncIterator[tuple[SimulatedEngine, Heard]]:
    subject, heard = SimulatedEngine(lambda: MODEL, pace=pace, max_running=max_running), Heard()
    await subject.start(heard.deliver)
    try:
        yield subject, heard
    finally:
        await subject.stop()


def sequence(number: int, *, max_tokens: int = 10, seed: int = 0) -> SequenceRequest:
    return SequenceRequest((1, number), (2, 3, 4), max_tokens, sampling=Sampling(seed=seed))


def test_a_token_depends_on_the_seed_and_the_position_and_is_never_an_end_token() -> None:
    tokens = [[MODEL.token(seed, position) for position in range(200)] for seed in range(5)]
    assert tokens == [[MODEL.token(s, p) for p in range(200)] for s in range(5)]
    assert len({tuple(row) for row in tokens}) == 5
    assert set().union(*tokens) == set(range(2, 50))


async def test_a_sequence_gets_its_tokens_in_order_and_ends_at_its_length() -> None:
    async with engine() as (subject, heard):
        subject.submit(sequence(1, seed=7))
        last = await heard.end_of(1)
    assert heard.tokens(1) == [MODEL.token(7, position) for position in range(10)]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.timings is not None
    assert heard.updates[1][0].accepted


async def test_an_end_token_ends_it() -> None:
    stop = MODEL.token(0, 4)
    async with engine() as (subject, heard):
        subject.submit(replace(sequence(1), end_token_ids=frozenset({stop})))
        last = await heard.end_of(1)
    assert last.finish_reason is FinishReason.STOP
    assert heard.tokens(1)[-1] == stop


async def test_no_more_sequences_run_than_allowed() -> None:
    async with engine(max_running=2) as (subject, heard):
        for number in range(1, 6):
            subject.submit(sequence(number))
        for number in range(1, 6):
            await heard.end_of(number)
    assert max(load.running for load in heard.loads) == 2
    assert max(load.waiting for load in heard.loads) == 3


async def test_a_dropped_stream_gets_no_more_outputs() -> None:
    async with engine() as (subject, heard):
        subject.submit(sequence(1, max_tokens=10_000))
        subject.drop_stream(1)
        subject.submit(replace(sequence(2), key=(2, 2)))
        await heard.end_of(2)
        assert subject.load.running == 0
    assert 1 not in heard.updates or not heard.tokens(1)


async def test_a_failing_engine_fails_sequences_one_by_one() -> None:
    async with engine(replace(AT_ONCE, failure_rate=1)) as (subject, heard):
        subject.submit(sequence(1))
        last = await heard.end_of(1)
        assert isinstance(last.error, EngineFailed)
        assert not subject.dead.done()


async def test_the_loop_age_grows_during_a_stalled_step() -> None:
    async with engine(replace(AT_ONCE, stall_rate=1, stall_s=60)) as (subject, heard):
        subject.submit(sequence(1))
        async with asyncio.timeout(30):
            while subject.time_since_progress_s < 0.5:
                await asyncio.sleep(0.05)
        assert not heard.updates


def test_a_step_takes_its_configured_time() -> None:
    pace = Pace(step_s=0.01, prefill_s_per_token=0.001)
    rng = random.Random(1)
    assert pace.duration_s(decodes=True, prefill_tokens=5, rng=rng) == pytest.approx(0.015)
    assert pace.duration_s(decodes=False, prefill_tokens=5, rng=rng) == pytest.approx(0.005)
    jittered = replace(pace, jitter=0.5)
    durations = [jittered.duration_s(decodes=True, prefill_tokens=0, rng=rng) for _ in range(50)]
    assert 0.01 <= min(durations) < max(durations) <= 0.015
    stalled = replace(pace, stall_rate=1, stall_s=2)
    assert stalled.duration_s(decodes=True, prefill_tokens=0, rng=rng) > 2


def test_the_properties_come_from_the_configuration(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "max_position_embeddings": 64,
        "eos_token_id": [3, 4],
        "vocab_size": 9,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    model = SimulatedModel.load(tmp_path)
    assert (model.vocab_size, model.context_tokens) == (9, 64)
    assert model.eos_token_ids == {3, 4}
    assert SimulatedModel.load(tmp_path, 32).context_tokens == 32


def test_a_configuration_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InvalidArgument, match="vocab_size") as caught:
        SimulatedModel.load(tmp_path)
    assert caught.value.field == "model_dir"


def test_the_process_does_not_import_mlx_for_it() -> None:
    script = "import sys, mlxmesh_engine.service.serve; sys.exit('mlx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


async def test_logprobs_are_simulated_for_the_prompt_and_the_output() -> None:
    asked = replace(sequence(1), prompt=(3, 4, 5), logprobs=LogprobOptions(2, prompt=True))
    async with engine() as (subject, heard):
        subject.submit(asked)
        await heard.end_of(1)
    joined = reduce(Update.followed_by, heard.updates[1])
    assert joined.prompt_logprobs is not None
    assert joined.prompt_logprobs.top_token_ids == (4, 5, 5, 6)
    assert joined.logprobs is not None
    assert joined.logprobs.top_token_ids[::2] == joined.token_ids
    assert len(joined.logprobs.chosen) == len(joined.token_ids)
    assert joined.logprobs.top[:2] == (-math.log(2), -2 * math.log(2))


async def test_a_shared_prompt_is_prefilled_once() -> None:
    async with engine() as (subject, heard):
        for number in (1, 2, 3):
            shares = (1, 1) if number > 1 else None
            asked = replace(sequence(number), prompt=(3,) * 20, shares_prefill_of=shares)
            subject.submit(asked)
        for number in (1, 2, 3):
            last = await heard.end_of(number)
            assert last.timings is not None
            assert last.timings.cached_tokens == (19 if number > 1 else 0)
