"""Repetitions at another version: when they run, what they run, and what is reported."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import CountTokensRequest, GenerateRequest
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.model.v1 import shadow_pb2
from mlxmesh.model.v1.model_pb2 import VERSION_STATE_READY, Model, ModelVersion
from mlxmesh.model.v1.split_pb2 import Shadow
from mlxmesh_shared.errors import Internal, MeshError, ModelNotFound, ServiceUnavailable
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.engine import FakeEngine, FakeEngineOptions
from tests.fakes.waiting import until
from tests.integration.generation.harness import DIGEST, Mesh, generation_service, running_mesh

ASK = GenerateRequest(
    model="pocket", prompt="abc", max_tokens=6, sampling=Sampling(temperature=1, seed=7)
)
LONG = GenerateRequest(model="pocket", prompt="abc", max_tokens=900)
# So that nothing waits long where a test is about what is dropped.
SOON = {"shadow_wait_s": 0.2}
NO_ROOM = shadow_pb2.SHADOW_DROP_REASON_NO_ROOM


def two_versions(*, percent: float = 100, **second: Any) -> Model:
    """Version 1 answers; version 2 repeats it."""
    fields: dict[str, Any] = {
        "state": VERSION_STATE_READY,
        "digest": DIGEST,
        "context_tokens": 1024,
        "vocab_size": 500,
        "desired_replicas": 1,
    }
    return Model(
        name="pocket",
        versions=[
            ModelVersion(version=1, **fields),
            ModelVersion(version=2, **{**fields, **second}),
        ],
        default_version=1,
        shadows=[Shadow(shadow_id="s-1", to_version=2, percent=percent)],
    )


@dataclass
class Shadowed:
    """A mesh with an engine of each version, both on one host."""

    mesh: Mesh
    primary: FakeEngine
    shadow: FakeEngine
    data_dir: Path

    @property
    def pairs(self) -> list[shadow_pb2.ShadowPair]:
        return self.mesh.models.shadows.pairs

    @property
    def drops(self) -> dict[int, int]:
        return dict(self.mesh.models.shadows.drops)

    async def pair(self) -> shadow_pb2.ShadowPair:
        """The only pair, once it is reported."""
        await until(lambda: bool(self.pairs or self.drops))
        assert not self.drops
        [pair] = self.pairs
        return pair

    async def dropped(self) -> dict[int, int]:
        """The drops, once one is reported."""
        await until(lambda: bool(self.drops))
        assert not self.pairs
        return self.drops


async def known(mesh: Mesh, reference: str) -> None:
    """Returns once generation has this change of the catalogue."""
    async with asyncio.timeout(30):
        while True:
            with suppress(ModelNotFound):
                await mesh.stub.CountTokens(CountTokensRequest(model=reference, prompt="x"))
                return
            await asyncio.sleep(0.01)


Open = Callable[..., Any]


@pytest.fixture
def open_shadowed(tmp_path: Path, tokenizer_dir: Path) -> Open:
    @asynccontextmanager
    async def open_(
        model: Model | None = None, *, loaded: bool = True, **settings: Any
    ) -> AsyncIterator[Shadowed]:
        options = FakeEngineOptions(engine_id="engine-2", model_version=2)
        async with (
            FakeEngine(options).running() as second,
            running_mesh(
                tmp_path, tokenizer_dir, model=model or two_versions(), settings=settings
            ) as mesh,
        ):
            if loaded:
                await mesh.registry.register(second.instance)
                await until(lambda: second.streams > 0)
            yield Shadowed(mesh, mesh.engine, second, tmp_path)

    return open_


@pytest.fixture
async def shadowed(open_shadowed: Open) -> AsyncIterator[Shadowed]:
    async with open_shadowed() as mesh:
        yield mesh


async def test_the_same_request_is_repeated_with_the_same_seed_and_the_lowest_priority(
    shadowed: Shadowed,
) -> None:
    await shadowed.mesh.collect(ASK)
    await shadowed.pair()
    [primary], [repeated] = shadowed.primary.submits, shadowed.shadow.submits
    assert repeated.prompt_token_ids == primary.prompt_token_ids
    assert (repeated.sampling, repeated.max_tokens) == (primary.sampling, primary.max_tokens)
    assert repeated.priority == -100
    assert repeated.caller == "mlxmesh:shadow" != primary.caller


async def test_equal_versions_with_a_random_seed_give_equal_answers(shadowed: Shadowed) -> None:
    request = GenerateRequest(model="pocket", prompt="abc", max_tokens=6)
    for count in range(1, 6):
        await shadowed.mesh.collect(request)
        await until(lambda count=count: len(shadowed.shadow.submits) == count)
        await until(lambda: shadowed.shadow.sequences == 0)
    await until(lambda: len(shadowed.pairs) == 5)
    assert all(pair.equal and pair.edit_distance == 0 for pair in shadowed.pairs)
    assert {pair.first_difference for pair in shadowed.pairs} == {6}
    assert len({submit.sampling.seed for submit in shadowed.shadow.submits}) == 5


async def test_a_pair_tells_how_the_answers_differ(shadowed: Shadowed) -> None:
    shadowed.mesh.script([65, 66, 67, 68, 69, 70])
    said = [65, 66, 90, 68]

    def other(submit: Any, index: int, vocab_size: int) -> int:
        return said[index] if index < len(said) else 0

    shadowed.shadow.options.choose, shadowed.shadow.options.eos_token_id = other, 0
    await shadowed.mesh.collect(ASK)
    pair = await shadowed.pair()
    assert not pair.equal
    assert (pair.from_version, pair.first_difference) == (1, 2)
    assert (pair.primary_tokens, pair.shadow_tokens) == (6, 5)
    # One character of six differs, and two are missing.
    assert pair.edit_distance == pytest.approx(3 / 6)
    assert pair.primary_ttft_ms > 0
    assert pair.shadow_ttft_ms > 0
    assert pair.primary_tokens_per_second > 0
    assert pair.shadow_tokens_per_second > 0
    assert pair.request_id
    assert pair.time.seconds > 0


async def test_nothing_is_repeated_before_the_primary_has_ended(shadowed: Shadowed) -> None:
    shadowed.primary.may_step.clear()
    answering = asyncio.create_task(shadowed.mesh.collect(ASK))
    await until(lambda: len(shadowed.primary.submits) == 1)
    for _ in range(4):
        shadowed.primary.step()
        await asyncio.sleep(0.06)
    assert not shadowed.shadow.submits
    shadowed.primary.may_step.set()
    await answering
    await shadowed.pair()


async def test_only_the_first_of_several_outputs_is_repeated(shadowed: Shadowed) -> None:
    request = GenerateRequest(model="pocket", prompt="abc", max_tokens=6, n=3)
    await shadowed.mesh.collect(request)
    pair = await shadowed.pair()
    assert pair.equal
    assert len(shadowed.primary.submits) == 3
    assert len(shadowed.shadow.submits) == 1


async def test_stop_texts_end_a_repetition_as_they_end_the_primary(shadowed: Shadowed) -> None:
    script = [65, 66, 67, 68, 69, 70]
    for engine in (shadowed.primary, shadowed.shadow):
        engine.options.choose = lambda submit, index, size: script[index % 6]
    full = await shadowed.mesh.collect(ASK)
    text = "".join(response.delta.text for response in full)
    await until(lambda: len(shadowed.pairs) == 1)
    request = GenerateRequest(model="pocket", prompt="abc", max_tokens=6, stop=[text[2:4]])
    await shadowed.mesh.collect(request)
    await until(lambda: len(shadowed.pairs) == 2)
    assert [pair.primary_tokens for pair in shadowed.pairs] == [6, 4]
    assert [pair.shadow_tokens for pair in shadowed.pairs] == [6, 4]


async def test_a_repetition_waits_until_its_host_has_no_other_work(shadowed: Shadowed) -> None:
    shadowed.primary.options.step_s = 0.01
    busy = asyncio.create_task(shadowed.mesh.collect(LONG))
    await until(lambda: shadowed.primary.sequences == 1)
    await shadowed.mesh.collect(ASK)
    await asyncio.sleep(0.2)
    assert not shadowed.shadow.submits
    busy.cancel()
    await until(lambda: len(shadowed.shadow.submits) == 1)


async def test_a_repetition_that_finds_no_room_in_time_is_dropped(open_shadowed: Open) -> None:
    async with open_shadowed(**SOON) as shadowed:
        shadowed.primary.options.step_s = 0.01
        busy = asyncio.create_task(shadowed.mesh.collect(LONG))
        await until(lambda: shadowed.primary.sequences == 1)
        await shadowed.mesh.collect(ASK)
        assert await shadowed.dropped() == {NO_ROOM: 1}
        assert not shadowed.shadow.submits
        busy.cancel()


async def test_a_repetition_makes_way_for_a_callers_request(shadowed: Shadowed) -> None:
    shadowed.shadow.may_step.clear()
    await shadowed.mesh.collect(ASK)
    await until(lambda: shadowed.shadow.sequences == 1)
    shadowed.primary.may_step.clear()
    answering = asyncio.create_task(shadowed.mesh.collect(ASK))
    await until(lambda: shadowed.shadow.sequences == 0)
    assert shadowed.shadow.cancels
    await asyncio.sleep(0.3)
    assert len(shadowed.shadow.submits) == 1
    shadowed.primary.may_step.set()
    shadowed.shadow.may_step.set()
    await answering
    # Both are repeated once there is room again.
    await until(lambda: len(shadowed.pairs) == 2)
    assert len(shadowed.shadow.submits) == 3


async def test_a_repetition_that_makes_way_for_too_long_is_dropped(open_shadowed: Open) -> None:
    async with open_shadowed(shadow_wait_s=0.5) as shadowed:
        shadowed.shadow.may_step.clear()
        await shadowed.mesh.collect(ASK)
        await until(lambda: shadowed.shadow.sequences == 1)
        shadowed.primary.may_step.clear()
        answering = asyncio.create_task(shadowed.mesh.collect(ASK))
        assert await shadowed.dropped() == {NO_ROOM: 1}
        shadowed.primary.may_step.set()
        await answering


async def test_a_full_engine_takes_a_callers_request_in_place_of_a_repetition(
    open_shadowed: Open,
) -> None:
    async with open_shadowed() as shadowed:
        shadowed.shadow.options.max_running, shadowed.shadow.options.max_waiting = 1, 0
        await shadowed.shadow.load_told()
        shadowed.shadow.may_step.clear()
        await shadowed.mesh.collect(ASK)
        await until(lambda: shadowed.shadow.sequences == 1)
        shadowed.shadow.may_step.set()
        at_second = GenerateRequest(model="pocket@2", prompt="abc", max_tokens=6)
        responses = await shadowed.mesh.collect(at_second)
        assert responses[-1].finished.usage.completion_tokens == 6


async def test_another_process_keeps_repetitions_away_too(shadowed: Shadowed) -> None:
    async with (
        generation_service(shadowed.mesh.registry, shadowed.data_dir / "other") as other,
        open_channel(other.address) as channel,
    ):
        shadowed.primary.options.step_s = 0.01
        call = GenerationServiceStub(channel).Generate(LONG)
        await anext(aiter(call))
        await shadowed.primary.load_told()
        await shadowed.mesh.collect(ASK)
        await asyncio.sleep(0.2)
        assert not shadowed.shadow.submits
        call.cancel()
        await until(lambda: bool(shadowed.shadow.submits))


async def test_a_running_repetition_makes_way_for_another_process(shadowed: Shadowed) -> None:
    shadowed.shadow.may_step.clear()
    await shadowed.mesh.collect(ASK)
    await until(lambda: shadowed.shadow.sequences == 1)
    async with (
        generation_service(shadowed.mesh.registry, shadowed.data_dir / "other") as other,
        open_channel(other.address) as channel,
    ):
        shadowed.primary.options.step_s = 0.01
        call = GenerationServiceStub(channel).Generate(LONG)
        await until(lambda: shadowed.shadow.sequences == 0)
        await asyncio.sleep(0.3)
        assert len(shadowed.shadow.submits) == 1
        call.cancel()
        await until(lambda: len(shadowed.shadow.submits) == 2)


async def test_a_cancelled_primary_is_not_repeated(shadowed: Shadowed) -> None:
    shadowed.primary.options.step_s = 0.01
    call = shadowed.mesh.stub.Generate(LONG)
    await anext(aiter(call))
    call.cancel()
    reason = shadow_pb2.SHADOW_DROP_REASON_PRIMARY_INCOMPLETE
    assert await shadowed.dropped() == {reason: 1}
    assert not shadowed.shadow.submits


async def test_a_failed_primary_is_not_repeated(shadowed: Shadowed) -> None:
    shadowed.primary.may_step.clear()
    answering = asyncio.create_task(shadowed.mesh.collect(ASK))
    await until(lambda: shadowed.primary.sequences == 1)
    shadowed.primary.fail_running = Internal("broken")
    shadowed.primary.may_step.set()
    with suppress(MeshError, aio.AioRpcError):
        await answering
    reason = shadow_pb2.SHADOW_DROP_REASON_PRIMARY_INCOMPLETE
    assert await shadowed.dropped() == {reason: 1}
    assert not shadowed.shadow.submits


async def test_a_version_without_an_engine_is_not_loaded_for_it(open_shadowed: Open) -> None:
    async with open_shadowed(loaded=False, **SOON) as shadowed:
        await shadowed.mesh.collect(ASK)
        assert await shadowed.dropped() == {NO_ROOM: 1}


async def test_a_version_with_a_shorter_context_does_not_support_the_request(
    open_shadowed: Open,
) -> None:
    async with open_shadowed(two_versions(context_tokens=4)) as shadowed:
        await shadowed.mesh.collect(ASK)
        reason = shadow_pb2.SHADOW_DROP_REASON_UNSUPPORTED
        assert await shadowed.dropped() == {reason: 1}


async def test_a_failed_repetition_is_counted_and_not_resumed(shadowed: Shadowed) -> None:
    shadowed.shadow.may_step.clear()
    await shadowed.mesh.collect(ASK)
    await until(lambda: shadowed.shadow.sequences == 1)
    shadowed.shadow.break_streams()
    assert await shadowed.dropped() == {shadow_pb2.SHADOW_DROP_REASON_FAILED: 1}
    await asyncio.sleep(0.3)
    assert len(shadowed.shadow.submits) == 1


async def test_a_repetition_that_takes_too_long_leaves_its_engine(open_shadowed: Open) -> None:
    async with open_shadowed(shadow_timeout_s=0.3) as shadowed:
        shadowed.shadow.may_step.clear()
        await shadowed.mesh.collect(ASK)
        assert await shadowed.dropped() == {shadow_pb2.SHADOW_DROP_REASON_TIMEOUT: 1}
        await until(lambda: shadowed.shadow.sequences == 0)


async def test_requests_beyond_the_memory_limit_are_dropped(open_shadowed: Open) -> None:
    async with open_shadowed(shadow_bytes=3000) as shadowed:
        await shadowed.mesh.collect(GenerateRequest(model="pocket", prompt="abc " * 200))
        assert await shadowed.dropped() == {NO_ROOM: 1}
        shadowed.shadow.may_step.clear()
        await shadowed.mesh.collect(ASK)
        await until(lambda: shadowed.shadow.sequences == 1)
        # What is being repeated still holds its memory.
        await shadowed.mesh.collect(ASK)
        await until(lambda: shadowed.drops[NO_ROOM] == 2)


async def test_a_request_outside_the_sample_is_not_repeated(open_shadowed: Open) -> None:
    async with open_shadowed(two_versions(percent=1e-9)) as shadowed:
        await shadowed.mesh.collect(ASK)
        await asyncio.sleep(0.2)
        assert not shadowed.shadow.submits
        assert not shadowed.drops


async def test_nothing_is_repeated_once_a_shadow_was_stopped(shadowed: Shadowed) -> None:
    shadowed.primary.options.step_s = 0.01
    busy = asyncio.create_task(shadowed.mesh.collect(LONG))
    await until(lambda: shadowed.primary.sequences == 1)
    await shadowed.mesh.collect(ASK)
    stopped = two_versions()
    stopped.ClearField("shadows")
    stopped.aliases["stopped"] = 1
    shadowed.mesh.models.put(stopped)
    await known(shadowed.mesh, "pocket:stopped")
    busy.cancel()
    await asyncio.sleep(0.4)
    assert not shadowed.shadow.submits
    # The long one was cancelled, and had been sampled when it began.
    assert NO_ROOM not in shadowed.drops
    assert not shadowed.pairs


async def test_what_the_model_service_did_not_acknowledge_is_recorded_once(
    shadowed: Shadowed,
) -> None:
    service = shadowed.mesh.models.shadows
    service.fail = ServiceUnavailable("not now")
    await shadowed.mesh.collect(ASK)
    await until(lambda: service.calls >= 2)
    service.fail = None
    before = service.calls
    await until(lambda: service.calls > before)
    assert len(shadowed.pairs) == 1
