"""Requests for models that are not loaded: they wait for the load, and end when it fails."""

import asyncio
from pathlib import Path

import pytest

from mlxmesh.generation.v1.generation_pb2 import (
    CancelGenerationRequest,
    GenerateRequest,
    GenerateResponse,
)
from mlxmesh_shared.errors import (
    EngineDraining,
    InsufficientMemory,
    MeshError,
    ModelNotFound,
    ModelNotLoaded,
    ModelRefused,
    NoReplica,
    ReaderReplaced,
    ServiceUnavailable,
    TooManyRequests,
)
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh, pocket, running_mesh

ASK = GenerateRequest(model="pocket", prompt="Hi", max_tokens=3)
LONG = GenerateRequest(model="pocket", prompt="Hi", max_tokens=400, ignore_eos=True)


async def unload(mesh: Mesh, **policy: bool) -> None:
    """As the model service does: the engine leaves, and no replica is wanted."""
    await mesh.registry.deregister(mesh.engine.instance)
    mesh.models.put(pocket(desired=0, **policy))
    await until(lambda: not mesh.engine.streams)


def load(mesh: Mesh) -> asyncio.Task[None]:
    """As the model service does, some time after it was asked."""

    async def loaded() -> None:
        await until(lambda: bool(mesh.models.load_requests))
        mesh.models.put(pocket(desired=1))
        await mesh.registry.register(mesh.engine.instance)

    return asyncio.create_task(loaded())


async def test_a_request_waits_until_its_model_is_loaded(mesh: Mesh) -> None:
    await unload(mesh)
    loading = load(mesh)
    assert (await mesh.collect(ASK))[-1].HasField("finished")
    await loading
    assert set(mesh.models.load_requests) == {("pocket", 1)}


async def test_many_requests_share_one_call(mesh: Mesh) -> None:
    await unload(mesh)
    asking = [asyncio.create_task(mesh.collect(ASK)) for _ in range(20)]
    await until(lambda: bool(mesh.models.load_requests))
    await asyncio.sleep(0.3)
    assert len(mesh.models.load_requests) == 1
    await load(mesh)
    for answer in await asyncio.gather(*asking):
        assert answer[-1].HasField("finished")


@pytest.mark.parametrize(
    "failure",
    [
        InsufficientMemory("needs 4 GiB, 3 GiB are free"),
        ModelRefused("its architecture is unknown"),
        ModelNotLoaded("its policy does not allow it"),
        ModelNotFound("there is no such version"),
    ],
    ids=lambda failure: failure.reason,
)
async def test_a_load_that_failed_ends_all_that_wait_with_its_reason(
    mesh: Mesh, failure: MeshError
) -> None:
    await unload(mesh)
    mesh.models.fail_load = failure
    asking = [asyncio.create_task(mesh.collect(ASK)) for _ in range(3)]
    for one in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(one, MeshError)
        assert (one.reason, one.message) == (failure.reason, failure.message)
    # The next request asks anew.
    mesh.models.fail_load = None
    loading = load(mesh)
    assert (await mesh.collect(ASK))[-1].HasField("finished")
    await loading


async def test_without_load_on_demand_no_load_is_asked_for(mesh: Mesh) -> None:
    await unload(mesh, on_demand=False)
    with pytest.raises(ModelNotLoaded):
        await mesh.collect(ASK)
    assert mesh.models.load_requests == []


async def test_an_invalid_request_loads_nothing(mesh: Mesh) -> None:
    await unload(mesh)
    with pytest.raises(MeshError) as caught:
        await mesh.collect(GenerateRequest(model="pocket", prompt="Hi " * 5000, max_tokens=3))
    assert caught.value.reason == "CONTEXT_TOO_LONG"
    assert mesh.models.load_requests == []


async def test_the_policy_bounds_the_wait(mesh: Mesh) -> None:
    model = pocket(desired=0)
    model.policy.load_timeout_s = 1
    await unload(mesh)
    mesh.models.put(model)
    with pytest.raises(NoReplica, match="not loaded within 1 s"):
        await mesh.collect(ASK)


async def test_a_cancelled_request_stops_waiting(mesh: Mesh) -> None:
    await unload(mesh)
    asking = asyncio.create_task(mesh.collect(ASK))
    await until(lambda: bool(mesh.models.load_requests))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    asked = len(mesh.models.load_requests)
    await asyncio.sleep(2.5)  # longer than the time between two calls
    assert len(mesh.models.load_requests) <= asked + 1


async def test_cancelling_by_id_ends_the_wait(mesh: Mesh) -> None:
    await unload(mesh)
    request = GenerateRequest(model="pocket", prompt="Hi", max_tokens=3, request_id="one")
    asking = asyncio.create_task(mesh.collect(request))
    await until(lambda: bool(mesh.models.load_requests))
    await mesh.stub.CancelGeneration(CancelGenerationRequest(request_id="one"))
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.done()
    assert mesh.engine.submits == []


async def test_the_same_request_waits_for_the_same_load(mesh: Mesh) -> None:
    await unload(mesh)
    request = GenerateRequest(model="pocket", prompt="Hi", max_tokens=3, request_id="one")
    asking = [asyncio.create_task(mesh.collect(request)) for _ in range(2)]
    await until(lambda: bool(mesh.models.load_requests))
    await load(mesh)
    answers = await asyncio.gather(*asking, return_exceptions=True)
    # One reader replaces the other, unless that has read everything.
    whole = [answer for answer in answers if not isinstance(answer, ReaderReplaced)]
    for answer in whole:
        assert not isinstance(answer, BaseException)
        assert answer[-1].HasField("finished")
    assert whole
    assert len(mesh.engine.submits) == 1


async def test_a_request_that_waits_for_a_load_counts_as_running(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    settings = {"max_generations": 1}
    async with running_mesh(tmp_path, tokenizer_dir, settings=settings) as mesh:
        await unload(mesh)
        asking = asyncio.create_task(mesh.collect(ASK))
        await until(lambda: bool(mesh.models.load_requests))
        with pytest.raises(TooManyRequests):
            await mesh.collect(ASK)
        mesh.models.fail_load = InsufficientMemory("needs 4 GiB, 3 GiB are free")
        with pytest.raises(InsufficientMemory):
            await asking
        with pytest.raises(InsufficientMemory):  # its place is free again
            await mesh.collect(ASK)


async def test_it_waits_while_the_model_service_restarts(mesh: Mesh) -> None:
    await unload(mesh)
    await mesh.registry.deregister(mesh.models.instance)
    await mesh.models.stop()
    asking = asyncio.create_task(mesh.collect(ASK))
    await asyncio.sleep(0.5)
    assert not asking.done()
    async with mesh.models.running():
        await mesh.registry.register(mesh.models.instance)
        loading = load(mesh)
        assert (await asking)[-1].HasField("finished")
        await loading


async def test_calls_that_fail_for_a_while_are_repeated(mesh: Mesh) -> None:
    await unload(mesh)
    mesh.models.fail_load = ServiceUnavailable("starting")
    asking = asyncio.create_task(mesh.collect(ASK))
    await until(lambda: len(mesh.models.load_requests) > 2)
    mesh.models.fail_load = None
    loading = load(mesh)
    assert (await asking)[-1].HasField("finished")
    await loading


async def test_a_stream_whose_engine_is_killed_has_its_model_loaded_again(mesh: Mesh) -> None:
    seen: list[GenerateResponse] = []

    async def read() -> None:
        async for response in mesh.stub.Generate(LONG):
            seen.append(response)

    reading = asyncio.create_task(read())
    await until(lambda: len(seen) > 3)
    # The grace period of a version that gives way is over.
    await mesh.registry.deregister(mesh.engine.instance)
    mesh.models.put(pocket(desired=0))
    await mesh.engine.stop()
    await until(lambda: bool(mesh.models.load_requests))
    async with mesh.engine.running():
        mesh.models.put(pocket(desired=1))
        await mesh.registry.register(mesh.engine.instance)
        await reading
    finished = seen[-1].finished
    assert finished.usage.completion_tokens == 400
    assert finished.timings.resumptions == 1


async def test_a_request_that_meets_an_engine_on_its_way_out_waits_for_the_next(
    mesh: Mesh,
) -> None:
    mesh.engine.refuse_next.append(EngineDraining("shutting down"))
    assert (await mesh.collect(ASK))[-1].HasField("finished")
    mesh.engine.refuse_next.extend(EngineDraining("shutting down") for _ in range(3))
    assert (await mesh.collect(ASK))[-1].HasField("finished")
    assert mesh.engine.refuse_next.maxlen is None
    assert not mesh.engine.refuse_next
