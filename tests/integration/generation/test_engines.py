"""Engines that come, go, refuse and die under a generation service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.generation.v1.generation_pb2 import (
    SERVICE_TIER_FLEX,
    GenerateRequest,
    GenerateResponse,
)
from mlxmesh.telemetry.v1 import telemetry_pb2
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceStub
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    EngineDraining,
    EngineFailed,
    EngineLost,
    InvalidArgument,
    MeshError,
    ModelNotLoaded,
    NoReplica,
    QueueFull,
)
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.engine import FakeEngine
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh, pocket, running_mesh

ASK = GenerateRequest(model="pocket", prompt="x", max_tokens=3)
LONG = GenerateRequest(model="pocket", prompt="x", max_tokens=1000)
FLEX = GenerateRequest(model="pocket", prompt="x", max_tokens=1000, service_tier=SERVICE_TIER_FLEX)


@asynccontextmanager
async def second_engine(mesh: Mesh) -> AsyncIterator[FakeEngine]:
    """Another replica of the same model, connected; nothing was submitted to either so far."""
    options = replace(mesh.engine.options, engine_id="engine-2")
    async with FakeEngine(options).running() as other:
        await mesh.registry.register(other.instance)
        while not other.submits:
            # Once the other one is connected, it takes what the first refuses.
            mesh.engine.refuse_next.append(QueueFull("full"))
            with suppress(QueueFull):
                await mesh.collect(ASK)
        mesh.engine.submits.clear()
        other.submits.clear()
        try:
            yield other
        finally:
            await mesh.registry.deregister(other.instance)


async def read_until_error(mesh: Mesh, seen: list[GenerateResponse]) -> None:
    async for response in mesh.stub.Generate(LONG):
        seen.append(response)


async def test_the_loss_of_an_engine_ends_its_streams_and_a_new_one_serves(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    # No other engine comes, and nobody waits long for one.
    async with running_mesh(tmp_path, tokenizer_dir, settings={"engine_wait_s": 0.5}) as mesh:
        mesh.models.put(pocket(on_demand=False))
        seen: list[list[GenerateResponse]] = [[] for _ in range(4)]
        readers = [asyncio.create_task(read_until_error(mesh, each)) for each in seen]
        await until(lambda: all(len(each) > 2 for each in seen))
        await mesh.engine.stop()
        outcomes = await asyncio.gather(*readers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [EngineLost] * 4
        assert all(isinstance(outcome, MeshError) and outcome.retryable for outcome in outcomes)
        await mesh.registry.deregister(mesh.engine.instance)
        # The runtime starts it again, under its id and at a new address.
        async with FakeEngine(mesh.engine.options).running() as reborn:
            await mesh.registry.register(reborn.instance)
            assert (await mesh.collect(ASK))[0].started.engine_id == "engine-1"
            assert len(reborn.submits) == 1


async def test_an_engine_that_fails_a_sequence_keeps_the_others(mesh: Mesh) -> None:
    reading = asyncio.create_task(read_until_error(mesh, []))
    await until(lambda: mesh.engine.sequences == 1)
    mesh.engine.fail_running = EngineFailed("the step failed")
    with pytest.raises(EngineFailed):
        await reading
    assert (await mesh.collect(ASK))[-1].HasField("finished")


@pytest.mark.parametrize("refusal", [QueueFull("full"), EngineDraining("stopping")])
async def test_a_refusal_is_tried_once_more_elsewhere(mesh: Mesh, refusal: MeshError) -> None:
    async with second_engine(mesh) as other:
        mesh.engine.refuse_next.append(refusal)
        responses = await mesh.collect(ASK)
        assert responses[0].started.engine_id == "engine-2"
        assert [len(mesh.engine.submits), len(other.submits)] == [1, 1]


async def test_every_queue_full_comes_with_a_delay(mesh: Mesh) -> None:
    async with second_engine(mesh) as other:
        mesh.engine.refuse_next.append(QueueFull("full", retry_delay_s=0.5))
        other.refuse_next.append(QueueFull("full", retry_delay_s=2.5))
        with pytest.raises(QueueFull) as caught:
            await mesh.collect(ASK)
        assert caught.value.retry_delay_s == 2.5


async def test_work_goes_to_the_replica_with_less_of_it(mesh: Mesh) -> None:
    async with second_engine(mesh) as other, AsyncExitStack() as stack:
        for engine in (mesh.engine, other):
            engine.may_step.clear()
            stack.callback(engine.may_step.set)
        calls = [mesh.stub.Generate(LONG) for _ in range(6)]
        for call in calls:
            stack.callback(call.cancel)
        await until(lambda: len(mesh.engine.submits) + len(other.submits) == 6)
        assert [len(mesh.engine.submits), len(other.submits)] == [3, 3]


async def test_flex_requests_go_where_most_is_left(mesh: Mesh) -> None:
    async with second_engine(mesh) as other, AsyncExitStack() as stack:
        for engine in (mesh.engine, other):
            engine.may_step.clear()
            stack.callback(engine.may_step.set)
        for number, request in enumerate([LONG, *[FLEX] * 5, LONG], 1):
            call = mesh.stub.Generate(request)
            stack.callback(call.cancel)
            await until(lambda: len(mesh.engine.submits) + len(other.submits) == number)  # noqa: B023
        busy, idle = sorted((mesh.engine, other), key=lambda one: one.submits[0].background)
        assert [submit.background for submit in busy.submits] == [False]
        # The other one counts as idle for the request that waits for its answer.
        assert [submit.background for submit in idle.submits] == [True] * 5 + [False]


async def test_flex_requests_fill_no_queue_of_others(mesh: Mesh) -> None:
    mesh.engine.options.max_running, mesh.engine.options.max_waiting = 1, 1
    calls: list[Any] = []
    for _ in range(2):
        calls.append(mesh.stub.Generate(FLEX))
        assert isinstance(await calls[-1].read(), GenerateResponse)
    with pytest.raises(QueueFull) as caught:
        await mesh.collect(FLEX)
    assert caught.value.retry_delay_s
    assert (await mesh.collect(ASK))[-1].HasField("finished")
    for call in calls:
        call.cancel()
    await until(lambda: mesh.engine.sequences == 0)


async def test_a_conversation_stays_with_the_replica_that_knows_it(mesh: Mesh) -> None:
    async with second_engine(mesh) as other:
        token_ids = [list(range(number, number + 64)) for number in range(10)]
        for _ in range(4):
            for each in token_ids:
                each += [1] * 16
                request = GenerateRequest(model="pocket", max_tokens=2)
                request.tokens.token_ids.extend(each)
                await mesh.collect(request)
        for engine in (mesh.engine, other):
            starts = [submit.prompt_token_ids[0] for submit in engine.submits]
            assert all(starts.count(start) == 4 for start in starts)
        assert len(mesh.engine.submits) + len(other.submits) == 40
        assert mesh.engine.submits
        assert other.submits


async def test_a_replica_that_came_back_has_forgotten_what_it_read(mesh: Mesh) -> None:
    async with second_engine(mesh) as other:
        ask = GenerateRequest(model="pocket", max_tokens=2)
        ask.tokens.token_ids.extend(range(64))
        first = (await mesh.collect(ask))[0].started.engine_id
        knows = {"engine-1": mesh.engine, "engine-2": other}[first]
        rest = other if knows is mesh.engine else mesh.engine
        await mesh.registry.deregister(knows.instance)
        await mesh.collect(ask)
        assert len(rest.submits) == 1
        await mesh.registry.register(knows.instance)
        await mesh.collect(ask)
        assert len(rest.submits) == 2


async def test_a_full_engine_is_not_even_asked(mesh: Mesh) -> None:
    mesh.engine.options.max_running, mesh.engine.options.max_waiting = 1, 1
    calls: list[Any] = []
    for _ in range(2):
        calls.append(mesh.stub.Generate(LONG))
        assert isinstance(await calls[-1].read(), GenerateResponse)
    with pytest.raises(QueueFull) as caught:
        await mesh.collect(ASK)
    assert caught.value.retry_delay_s
    assert len(mesh.engine.submits) == 2
    for call in calls:
        call.cancel()
    await until(lambda: mesh.engine.sequences == 0)
    assert (await collected_once_there_is_room(mesh))[-1].HasField("finished")


async def collected_once_there_is_room(mesh: Mesh) -> list[GenerateResponse]:
    """Generation hears of the room a moment after the engine has it."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await mesh.collect(ASK)
            except QueueFull:
                await asyncio.sleep(0.01)


async def test_an_engine_that_promised_all_its_memory_is_not_even_asked(mesh: Mesh) -> None:
    mesh.engine.options.kv_capacity_bytes = 1024
    running = mesh.stub.Generate(LONG)
    assert isinstance(await running.read(), GenerateResponse)
    with pytest.raises(QueueFull) as caught:
        await mesh.collect(ASK)
    assert caught.value.retry_delay_s
    assert len(mesh.engine.submits) == 1
    running.cancel()
    await until(lambda: mesh.engine.sequences == 0)


async def test_the_engine_learns_who_asks(mesh: Mesh) -> None:
    request = GenerateRequest(model="pocket", prompt="Hi", max_tokens=1, priority=7)
    for metadata in ([("mlxmesh-caller", "team-a")], []):
        async for _ in mesh.stub.Generate(request, metadata=metadata):
            pass
    assert [submit.caller for submit in mesh.engine.submits] == ["team-a", "127.0.0.1"]
    assert [submit.priority for submit in mesh.engine.submits] == [7, 7]


async def test_an_illegal_callers_name_reaches_no_engine(mesh: Mesh) -> None:
    with pytest.raises(InvalidArgument) as caught:
        async for _ in mesh.stub.Generate(ASK, metadata=[("mlxmesh-caller", "a b")]):
            pass
    assert caught.value.field == "mlxmesh-caller"
    assert mesh.engine.submits == []


async def test_an_engine_that_leaves_the_registry_finishes_what_it_has(mesh: Mesh) -> None:
    mesh.models.put(pocket(on_demand=False))
    reading = asyncio.create_task(mesh.collect(LONG))
    await until(lambda: mesh.engine.sequences == 1)
    await mesh.registry.deregister(mesh.engine.instance)
    with pytest.raises(NoReplica):
        await mesh.collect(ASK)
    assert (await reading)[-1].finished.usage.completion_tokens == 1000
    assert len(mesh.engine.submits) == 1


async def test_a_replica_that_is_on_its_way_is_waited_for(mesh: Mesh) -> None:
    mesh.models.put(pocket(on_demand=False))
    await mesh.registry.deregister(mesh.engine.instance)
    with pytest.raises(NoReplica) as caught:
        await mesh.collect(ASK)
    assert caught.value.retry_delay_s
    asking = asyncio.create_task(mesh.collect(ASK))
    await asyncio.sleep(0.05)
    await mesh.registry.register(mesh.engine.instance)
    assert (await asking)[-1].HasField("finished")


async def test_an_engine_that_keeps_failing_is_left_alone_while_another_serves(mesh: Mesh) -> None:
    async with second_engine(mesh) as other:
        mesh.engine.refuse_next.extend(EngineFailed("broken") for _ in range(100))
        failed = 0
        for number in range(60):
            request = GenerateRequest(model="pocket", max_tokens=2)
            request.tokens.token_ids.extend(range(number, number + 64))
            try:
                await mesh.collect(request)
            except EngineFailed:
                failed += 1
        # Five failures eject it; after that it gets a probe now and then, ever more rarely.
        assert 5 <= failed == len(mesh.engine.submits) < 20
        assert len(other.submits) == 60 - failed
        assert (await breaker_of(mesh, "engine-1")).failures == failed


async def test_the_only_engine_serves_whatever_its_breaker_says(mesh: Mesh) -> None:
    reading = asyncio.create_task(read_until_error(mesh, []))
    await until(lambda: mesh.engine.sequences == 1)
    assert (await breaker_of(mesh, "engine-1")).state == telemetry_pb2.BREAKER_STATE_CLOSED
    mesh.engine.refuse_next.extend(EngineFailed("broken") for _ in range(5))
    for _ in range(5):
        with pytest.raises(EngineFailed):
            await mesh.collect(ASK)
    assert (await breaker_of(mesh, "engine-1")).state != telemetry_pb2.BREAKER_STATE_CLOSED
    assert (await mesh.collect(ASK))[-1].HasField("finished")
    assert (await breaker_of(mesh, "engine-1")).state == telemetry_pb2.BREAKER_STATE_CLOSED
    reading.cancel()


async def breaker_of(mesh: Mesh, engine_id: str) -> telemetry_pb2.Breaker:
    """The breaker of an engine, as gateways are told of it."""
    async with open_channel(mesh.server.address) as channel:
        stub = TelemetryServiceStub(channel)
        response = await stub.GetMeshStatus(telemetry_pb2.GetMeshStatusRequest())
    (engine,) = [one for one in response.instances if one.instance_id == engine_id]
    assert (engine.service, engine.metadata["model"]) == ("engine", "pocket")
    return engine.breaker


async def test_a_model_that_is_not_loaded_says_how_to_load_it(mesh: Mesh) -> None:
    model = pocket(desired=0, on_demand=False)
    model.name = "idle"
    mesh.models.put(model)
    asking = GenerateRequest(model="idle", prompt="x")
    error = await until_refused(mesh, ModelNotLoaded.reason, asking)
    assert "mlxmesh load idle@1" in str(error)


async def test_requests_go_on_while_the_model_service_is_away_and_changes_arrive_after(
    mesh: Mesh,
) -> None:
    await mesh.collect(ASK)
    await mesh.registry.deregister(mesh.models.instance)
    await mesh.models.stop()
    assert (await mesh.collect(ASK))[-1].HasField("finished")
    mesh.models.remove("pocket")
    async with mesh.models.running():
        await mesh.registry.register(mesh.models.instance)
        await until_refused(mesh, "MODEL_NOT_FOUND")
    assert mesh.models.watches == [0, 1]


async def until_refused(mesh: Mesh, reason: str, request: GenerateRequest = ASK) -> MeshError:
    """The refusal for this reason; others, and answers, are passed over."""
    while True:
        try:
            await mesh.collect(request)
        except MeshError as error:
            if error.reason == reason:
                return error
        await asyncio.sleep(0.01)


async def test_a_deadline_holds_while_no_replica_comes(mesh: Mesh) -> None:
    await mesh.registry.deregister(mesh.engine.instance)
    with pytest.raises((DeadlineExceeded, NoReplica)):
        await mesh.collect(ASK, timeout=0.3)
