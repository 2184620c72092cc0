"""Loads on demand, eviction, idle unload and scaling, with fake hosts."""

import asyncio

import pytest

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh.model.v1.policy_pb2 import ModelPolicy, Price
from mlxmesh.runtime.v1 import runtime_pb2
from mlxmesh.telemetry.v1.events_pb2 import ModelEvicted, ModelIdleUnloaded, ModelScaled
from mlxmesh_model.catalogue.queries import put_split
from mlxmesh_model.catalogue.routing import Arm, Split, Subject
from mlxmesh_model.replicas.policy_pass import PolicySettings
from mlxmesh_model.replicas.scaling import ScalingRules
from mlxmesh_shared.errors import (
    IllegalState,
    InsufficientMemory,
    InvalidArgument,
    ModelNotFound,
    ModelNotLoaded,
    ModelRefused,
    NoRuntime,
)
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.integration.model.conftest import Mesh, ModelService

READY = pb.VERSION_STATE_READY


@pytest.fixture(autouse=True)
def _both_databases(mesh: Mesh, database: DatabaseUrl) -> None:
    mesh.database = database


async def ask(service: ModelService, name: str, version: int = 1) -> pb.ModelVersion:
    request = pb.RequestLoadRequest(name=name, version=version)
    return (await service.stub.RequestLoad(request)).version


async def ready(service: ModelService, *names: str) -> None:
    for name in names:
        await service.until(name, lambda version: version.ready_replicas > 0)


async def unloaded(service: ModelService, name: str) -> None:
    await service.until(name, lambda version: version.state == pb.VERSION_STATE_AVAILABLE)


async def set_policy(service: ModelService, name: str = "pocket", **policy: object) -> pb.Model:
    changes = ModelPolicy(**policy)  # pyright: ignore[reportArgumentType]
    request = pb.SetModelPolicyRequest(name=name, policy=changes)
    return (await service.stub.SetModelPolicy(request)).model


def engine_of(runtime, name: str) -> str:
    """The id of the only engine of a model."""
    [engine_id] = [key for key, engine in runtime.engines.items() if engine.model == name]
    return engine_id


def use(runtime, **idle_ms: int) -> None:
    """Sets how long models have been idle; 0 while they run a sequence."""
    for name, idle in idle_ms.items():
        engine = engine_of(runtime, name)
        runtime.set_load(engine, idle_ms=idle, running_sequences=0 if idle else 1)


async def small_host(mesh: Mesh, *models: str, room: int = 2, **settings: bool):
    """A host with room for so many engines, and models that are registered."""
    mesh.policies = PolicySettings(max_engines=room, **settings)
    host, service = await mesh.host(), await mesh.service()
    for name in models:
        await service.register(name)
    return host.runtime, service


def seen(mesh: Mesh, kind) -> list:
    return [event for event in mesh.events if isinstance(event, kind)]


async def test_a_request_loads_a_version_and_repeating_it_changes_nothing(mesh: Mesh):
    runtime, service = await small_host(mesh, "pocket")
    first = await ask(service, "pocket")
    assert first.desired_replicas == 1
    await asyncio.gather(*(ask(service, "pocket") for _ in range(10)))
    await ready(service, "pocket")
    assert len(runtime.starts) == 1
    assert (await ask(service, "pocket")).state == READY


async def test_a_request_is_told_why_it_may_not_load(mesh: Mesh):
    _, service = await small_host(mesh, "pocket", load_on_demand=False)
    with pytest.raises(ModelNotLoaded, match="mlxmesh load pocket@1"):
        await ask(service, "pocket")
    await set_policy(service, load_on_demand=True)
    await ask(service, "pocket")
    with pytest.raises(ModelNotFound):
        await ask(service, "pocket", 2)
    with pytest.raises(ModelNotFound):
        await ask(service, "nothing")


async def test_a_request_is_told_why_the_load_failed(mesh: Mesh):
    runtime, service = await small_host(mesh, "pocket")
    runtime.hold = True
    await ask(service, "pocket")
    while not runtime.engines:
        await asyncio.sleep(0.01)
    await ask(service, "pocket")
    runtime.refuse_model(engine_of(runtime, "pocket"), "its architecture is unknown")
    await service.until("pocket", lambda version: version.HasField("failure"))
    with pytest.raises(ModelRefused, match="architecture"):
        await ask(service, "pocket")


async def test_without_a_runtime_the_load_stays_wanted(mesh: Mesh):
    service = await mesh.service()
    await service.register()
    await ask(service, "pocket")
    await service.until("pocket", lambda version: version.HasField("failure"))
    with pytest.raises(NoRuntime):
        await ask(service, "pocket")
    await mesh.host()
    await ready(service, "pocket")


async def test_the_least_recently_used_model_gives_way(mesh: Mesh):
    runtime, service = await small_host(mesh, "a", "b", "c")
    for name in ("a", "b"):
        await ask(service, name)
    await ready(service, "a", "b")
    use(runtime, a=20_000, b=60_000)
    await ask(service, "c")
    await ready(service, "c")
    await unloaded(service, "b")
    assert {engine.model for engine in runtime.engines.values()} == {"a", "c"}
    [event] = seen(mesh, ModelEvicted)
    assert (event.model, event.version, event.for_version) == ("b", 1, "c@1")
    assert event.idle_ms == 60_000
    assert (await service.version("b")).desired_replicas == 0
    # The next request brings it back.
    use(runtime, a=90_000, c=50_000)
    await ask(service, "b")
    await ready(service, "b")
    await unloaded(service, "a")


async def test_what_a_rollout_needs_neither_gives_way_nor_idles(mesh: Mesh):
    runtime, service = await small_host(mesh, "a", "b", "c")
    for name in ("a", "b"):
        await ask(service, name)
    await ready(service, "a", "b")
    await service.register("b", rows=16)
    arms = (Arm("new", 2, 0), Arm("present", 1, 100))
    async with service.store.changing("b") as (session, _):
        split = Split(arms, "r", Subject.REQUEST, rollout_id="r")
        await put_split(session, "b", "default", split)
    use(runtime, a=20_000, b=60_000)
    await set_policy(service, "b", idle_unload_s=1)
    await ask(service, "c")
    await ready(service, "c")
    await unloaded(service, "a")
    assert {engine.model for engine in runtime.engines.values()} == {"b", "c"}
    assert [event.model for event in seen(mesh, ModelEvicted)] == ["a"]
    assert seen(mesh, ModelIdleUnloaded) == []


async def test_what_the_caller_used_last_stays(mesh: Mesh):
    runtime, service = await small_host(mesh, "a", "b", "c")
    for name in ("a", "b"):
        await service.load(name)
    use(runtime, a=50_000, b=40_000)
    uses = [pb.VersionUse(name="a", version=1, idle_ms=100)]
    request = pb.RequestLoadRequest(name="c", version=1, recent_uses=uses)
    await service.stub.RequestLoad(request)
    await unloaded(service, "b")
    assert (await service.version("a")).state == READY


async def test_a_load_by_an_operator_makes_room_too(mesh: Mesh):
    runtime, service = await small_host(mesh, "a", "b", room=1)
    await service.load("a")
    use(runtime, a=60_000)
    assert (await service.load("b")).state == READY
    await unloaded(service, "a")


@pytest.mark.parametrize(
    "policy", [{"pinned": True}, {"min_replicas": 1}, {"load_on_demand": False}]
)
async def test_models_that_are_kept_do_not_give_way(mesh: Mesh, policy: dict[str, object]):
    runtime, service = await small_host(mesh, "a", "b", room=1)
    await service.load("a")
    await set_policy(service, "a", **policy)
    use(runtime, a=60_000)
    with pytest.raises(InsufficientMemory, match="max_engines_per_runtime"):
        await service.load("b")
    assert (await service.version("a")).state == READY
    assert seen(mesh, ModelEvicted) == []
    # As soon as it may be unloaded, it is.
    await set_policy(service, "a", pinned=False, min_replicas=0, load_on_demand=True)
    await ready(service, "b")


async def test_a_request_waits_until_a_busy_model_is_idle(mesh: Mesh):
    runtime, service = await small_host(mesh, "a", "b", room=1)
    await service.load("a")
    use(runtime, a=0)
    await ask(service, "b")
    await asyncio.sleep(0.5)
    version = await ask(service, "b")
    assert (version.state, version.HasField("failure")) == (pb.VERSION_STATE_LOADING, False)
    assert (await service.version("a")).state == READY
    use(runtime, a=20_000)
    await ready(service, "b")


async def test_waiting_requests_are_served_in_order(mesh: Mesh):
    runtime, service = await small_host(mesh, "a", "z", "b", room=1)
    await service.load("a")
    use(runtime, a=0)
    await ask(service, "z")
    await asyncio.sleep(0.3)
    await ask(service, "b")
    await asyncio.sleep(0.3)
    use(runtime, a=20_000)
    await ready(service, "z")
    assert (await service.version("b")).ready_replicas == 0
    use(runtime, z=20_000)
    await ready(service, "b")


async def test_a_host_that_is_short_of_memory_is_relieved(mesh: Mesh):
    runtime, service = await small_host(mesh, "a", "b", room=0)
    for name in ("a", "b"):
        await service.load(name)
    use(runtime, a=20_000, b=60_000)
    for engine_id in runtime.engines:
        runtime.set_load(engine_id, memory_bytes=2**30)
    runtime.shortage_bytes = 2**20
    await set_policy(service, "a", idle_unload_s=0)  # any change starts a pass
    await unloaded(service, "b")
    runtime.shortage_bytes = 0
    [event] = seen(mesh, ModelEvicted)
    assert (event.model, event.for_version) == ("b", "")
    assert (await service.version("a")).state == READY


async def test_an_idle_model_is_unloaded(mesh: Mesh):
    runtime, service = await small_host(mesh, "a", "b")
    for name in ("a", "b"):
        await service.load(name)
    await set_policy(service, "a", idle_unload_s=30)
    await set_policy(service, "b", idle_unload_s=30, pinned=True)
    use(runtime, a=29_000, b=99_000)
    await asyncio.sleep(0.3)
    assert (await service.version("a")).state == READY
    use(runtime, a=30_000)
    await unloaded(service, "a")
    [event] = seen(mesh, ModelIdleUnloaded)
    assert (event.model, event.idle_ms) == ("a", 30_000)
    assert (await service.version("b")).state == READY


async def test_min_replicas_are_loaded_and_kept(mesh: Mesh):
    _, service = await small_host(mesh, "pocket")
    await set_policy(service, min_replicas=2)
    await service.until("pocket", lambda version: version.ready_replicas == 2)
    [event] = seen(mesh, ModelScaled)
    assert (event.from_replicas, event.to_replicas) == (0, 2)
    with pytest.raises(IllegalState, match="--min-replicas 0"):
        await service.stub.UnloadModel(pb.UnloadModelRequest(model="pocket"))


async def test_queues_add_replicas_and_calm_removes_them(mesh: Mesh):
    mesh.scaling = ScalingRules(grow_after_s=0.3, shrink_after_s=0.3)
    runtime, service = await small_host(mesh, "pocket", room=4)
    await service.load()
    await set_policy(service, max_replicas=2)
    runtime.set_load(
        engine_of(runtime, "pocket"), running_sequences=4, waiting_sequences=2, longest_wait_ms=5000
    )
    await service.until("pocket", lambda version: version.ready_replicas == 2)
    for engine_id in runtime.engines:
        runtime.set_load(engine_id, running_sequences=0, waiting_sequences=0, longest_wait_ms=0)
    await service.until("pocket", lambda version: version.desired_replicas == 1)
    while len(seen(mesh, ModelScaled)) < 2:
        await asyncio.sleep(0.01)
    steps = [(event.from_replicas, event.to_replicas) for event in seen(mesh, ModelScaled)]
    assert steps == [(1, 2), (2, 1)]


async def test_demands_survive_a_restart_of_the_service(mesh: Mesh):
    runtime, service = await small_host(mesh, "a", "b", room=1)
    await service.load("a")
    use(runtime, a=0)
    await ask(service, "b")
    service = await mesh.service()
    use(runtime, a=20_000)
    await ready(service, "b")


async def test_a_policy_is_merged_and_sent_to_watchers(mesh: Mesh):
    _, service = await small_host(mesh, "pocket")
    await set_policy(service, idle_unload_s=60, price=Price(per_device_second=0.5))
    watch = service.stub.WatchModels(pb.WatchModelsRequest())
    changed = await set_policy(service, pinned=True, load_timeout_s=7)
    assert changed.policy == ModelPolicy(
        idle_unload_s=60, pinned=True, load_timeout_s=7, price=Price(per_device_second=0.5)
    )
    async for message in watch:
        if message.model.policy == changed.policy:
            break
    watch.cancel()
    assert (await service.model()).policy == changed.policy


async def test_a_policy_that_contradicts_itself_names_the_field(mesh: Mesh):
    _, service = await small_host(mesh, "pocket")
    await set_policy(service, max_replicas=2)
    with pytest.raises(InvalidArgument) as caught:
        await set_policy(service, min_replicas=3)
    assert caught.value.field == "policy.min_replicas"
    with pytest.raises(ModelNotFound) as unknown:
        await set_policy(service, "nothing", pinned=True)
    assert unknown.value.field == "name"


async def test_an_engine_that_crashed_for_good_ends_the_wait(mesh: Mesh):
    runtime, service = await small_host(mesh, "pocket")
    runtime.hold = True
    await ask(service, "pocket")
    while not runtime.engines:
        await asyncio.sleep(0.01)
    failure = Failure(code=13, reason="ENGINE_CRASHED", message="exit code 1")
    failed = runtime_pb2.ENGINE_STATE_FAILED
    runtime.set_state(engine_of(runtime, "pocket"), failed, failure=failure)
    await service.until("pocket", lambda version: version.HasField("failure"))
    with pytest.raises(Exception, match="exit code 1"):
        await ask(service, "pocket")
