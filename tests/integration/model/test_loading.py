"""Desired replicas become engines despite failures of runtimes and of the model service."""

import asyncio
import os
import re

import pytest

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh.runtime.v1 import runtime_pb2
from mlxmesh.runtime.v1.runtime_pb2 import FetchProgress, Rank
from mlxmesh.telemetry.v1.events_pb2 import ModelLoadFailed, ModelReplicaRejected
from mlxmesh_shared.errors import (
    DiskFull,
    EngineFailed,
    FetchFailed,
    IllegalState,
    InsufficientMemory,
    InvalidArgument,
    ModelFilesDamaged,
    ModelFilesMissing,
    ModelRefused,
    NoRuntime,
)
from mlxmesh_shared.registry.port import Instance
from tests.fakes.runtime import FakeRuntime

READY = pb.VERSION_STATE_READY
AVAILABLE = pb.VERSION_STATE_AVAILABLE


async def test_load_streams_until_every_replica_is_ready(mesh, service):
    host = await mesh.host()
    await service.register()

    version = await service.load(replicas=2)

    assert (version.state, version.desired_replicas, version.ready_replicas) == (READY, 2, 2)
    assert len(host.runtime.engines) == 2
    engine = next(iter(host.runtime.engines.values()))
    assert (engine.model, engine.model_version) == ("pocket", 1)
    assert engine.engine_id.startswith("pocket-v1-")


async def test_load_reports_each_step(mesh, service):
    host = await mesh.host()
    host.runtime.hold = True
    await service.register()
    states: list[int] = []
    ready: asyncio.Task[None] | None = None
    async for message in service.stub.LoadModel(pb.LoadModelRequest(model="pocket")):
        assert message.name == "pocket"
        states.append(message.version.state)
        ready = ready or asyncio.create_task(_ready_once_started(host.runtime))
    assert ready is not None
    await ready
    assert states[0] == pb.VERSION_STATE_LOADING
    assert states[-1] == READY


async def _ready_once_started(runtime: FakeRuntime) -> None:
    while not runtime.engines:
        await asyncio.sleep(0.01)
    for engine_id in runtime.engines:
        runtime.set_state(engine_id, runtime_pb2.ENGINE_STATE_READY)


async def test_replicas_spread_over_hosts(mesh, service):
    hosts = [await mesh.host(FakeRuntime(f"runtime-{n}")) for n in range(3)]
    await service.register()
    await service.load(replicas=3)
    assert [len(host.runtime.engines) for host in hosts] == [1, 1, 1]


async def test_more_and_fewer_replicas(mesh, service):
    host = await mesh.host()
    await service.register()
    await service.load(replicas=3)
    version = await service.load(replicas=1)
    assert version.desired_replicas == 1
    await service.until("pocket", lambda v: v.ready_replicas == 1)
    while len(host.runtime.engines) > 1:
        await asyncio.sleep(0.01)
    assert len(host.runtime.stops) == 2


async def test_unload_returns_when_the_replicas_have_stopped(mesh, service):
    host = await mesh.host()
    await service.register()
    await service.load(replicas=2)

    answer = await service.stub.UnloadModel(pb.UnloadModelRequest(model="pocket"))

    assert (answer.version.state, answer.version.desired_replicas) == (AVAILABLE, 0)
    assert host.runtime.engines == {}


async def test_unloading_an_unloaded_version_returns_at_once(service):
    await service.register()
    answer = await service.stub.UnloadModel(pb.UnloadModelRequest(model="pocket"))
    assert answer.version.state == AVAILABLE


async def test_no_runtime(service):
    await service.register()
    with pytest.raises(NoRuntime, match="start one"):
        await service.load()
    version = await service.version()
    assert (version.state, version.desired_replicas) == (pb.VERSION_STATE_FAILED, 1)
    assert version.failure.reason == "NO_RUNTIME"


async def test_an_unresponsive_runtime_is_named(mesh, service):
    await mesh.registry.register(Instance("runtime", "runtime-frozen", "127.0.0.1:1", os.getpid()))
    await service.register()
    with pytest.raises(NoRuntime, match="not responding: runtime-frozen"):
        await service.load()


async def test_a_runtime_that_registers_later_gets_the_replicas(mesh, service):
    await service.register()
    with pytest.raises(NoRuntime):
        await service.load()
    await mesh.host()
    await service.until("pocket", lambda v: v.state == READY and not v.HasField("failure"))


async def test_insufficient_memory_reports_the_amounts(mesh, service):
    await mesh.host(FakeRuntime(available_bytes=300 * 2**20))
    await mesh.host(FakeRuntime("runtime-2", available_bytes=100 * 2**20))
    await service.register(rows=8 * 2**20 // 4)  # 32 MiB
    assert (await service.load()).state == READY  # 288 MiB fit
    await service.register("big", rows=64 * 2**20 // 16)
    with pytest.raises(InsufficientMemory, match=r"big@1 needs 320 MiB.* 2 runtimes has 300 MiB"):
        await service.load("big")


async def test_a_runtime_that_rejects_a_replica_is_skipped(mesh, service):
    full = await mesh.host(FakeRuntime("runtime-1", available_bytes=9 * 2**30))
    other = await mesh.host(FakeRuntime("runtime-2"))
    full.runtime.refuse_with = InsufficientMemory("4 of 3 GiB")
    await service.register()
    await service.load()
    assert len(other.runtime.engines) == 1


async def test_every_runtime_rejects_the_replica(mesh, service):
    host = await mesh.host()
    host.runtime.refuse_with = InsufficientMemory("needs 4 GiB, has 3 GiB")
    await service.register()
    with pytest.raises(InsufficientMemory, match="needs 4 GiB, has 3 GiB"):
        await service.load()

    host.runtime.refuse_with = None
    await service.until("pocket", lambda v: v.state == READY)


async def test_a_failed_engine_ends_the_load_and_a_new_load_retries(mesh, service):
    host = await mesh.host()
    host.runtime.hold = True
    await service.register()
    loading = asyncio.create_task(service.load())
    while not host.runtime.engines:
        await asyncio.sleep(0.01)
    [engine_id] = host.runtime.engines
    host.runtime.fail(engine_id, "exit code 9 five times")

    with pytest.raises(EngineFailed, match=f"{engine_id}: exit code 9 five times"):
        await loading
    version = await service.version()
    assert version.state == pb.VERSION_STATE_FAILED
    assert version.failure.reason == "ENGINE_CRASHED"

    host.runtime.hold = False
    assert (await service.load()).state == READY
    assert host.runtime.starts == [engine_id, engine_id]


async def test_a_crashed_engine_that_its_runtime_restarts(mesh, service):
    host = await mesh.host()
    await service.register()
    await service.load()
    [engine_id] = host.runtime.engines
    host.runtime.set_state(engine_id, runtime_pb2.ENGINE_STATE_BACKOFF)
    await service.until("pocket", lambda v: v.state == pb.VERSION_STATE_LOADING)
    host.runtime.set_state(engine_id, runtime_pb2.ENGINE_STATE_READY)
    await service.until("pocket", lambda v: v.state == READY)
    assert host.runtime.starts == [engine_id]


async def test_a_runtime_restarted_without_engines_gets_them_again(mesh, service):
    host = await mesh.host()
    await service.register()
    await service.load(replicas=2)
    before = sorted(host.runtime.engines)
    host.runtime.lose_everything()
    while sorted(host.runtime.engines) != before:
        await asyncio.sleep(0.01)
    await service.until("pocket", lambda v: v.ready_replicas == 2)


async def test_replicas_of_a_lost_runtime_are_placed_elsewhere(mesh, service):
    first = await mesh.host(FakeRuntime("runtime-1", available_bytes=9 * 2**30))
    second = await mesh.host(FakeRuntime("runtime-2"))
    await service.register()
    await service.load()
    assert len(first.runtime.engines) == 1
    await first.crash()
    await service.until("pocket", lambda v: v.ready_replicas == 1 and v.state == READY)
    while not second.runtime.engines:
        await asyncio.sleep(0.01)


async def test_a_briefly_absent_runtime_keeps_its_engines(mesh, service):
    first = await mesh.host(FakeRuntime("runtime-1", available_bytes=9 * 2**30))
    second = await mesh.host(FakeRuntime("runtime-2"))
    await service.register()
    await service.load()

    instance = await first.slip_away()
    await asyncio.sleep(0.5)  # five passes
    await mesh.registry.register(instance)
    await asyncio.sleep(0.3)

    assert len(first.runtime.engines) == 1
    assert (first.runtime.stops, second.runtime.starts) == ([], [])
    assert (await service.version()).state == READY


async def test_a_restarted_model_service_adopts_running_engines(mesh):
    host = await mesh.host()
    service = await mesh.service()
    await service.register()
    await service.load(replicas=2)
    before = list(host.runtime.starts)

    service = await mesh.service()

    version = await service.version()
    assert (version.state, version.ready_replicas) == (READY, 2)
    await asyncio.sleep(0.3)  # three passes
    assert (host.runtime.starts, host.runtime.stops) == (before, [])


async def test_loaded_versions_are_loaded_again_after_a_full_restart(mesh):
    host = await mesh.host()
    service = await mesh.service()
    await service.register()
    await service.load()
    await mesh.stop_service()
    await host.crash()

    fresh = await mesh.host(FakeRuntime("runtime-2"))
    service = await mesh.service()

    await service.until("pocket", lambda v: v.state == READY)
    while not fresh.runtime.engines:
        await asyncio.sleep(0.01)


async def test_an_orphaned_engine_is_stopped(mesh, service):
    runtime = FakeRuntime()
    runtime.engines["stray-v1-abcdef"] = runtime_pb2.Engine(
        engine_id="stray-v1-abcdef", model="stray", model_version=1
    )
    await mesh.host(runtime)
    while runtime.engines:
        await asyncio.sleep(0.01)


async def test_loaded_versions_cannot_be_deleted(mesh, service):
    await mesh.host()
    await service.register()
    await service.load()
    with pytest.raises(IllegalState, match="pocket@1: it is READY; unload it first"):
        await service.stub.DeleteModel(pb.DeleteModelRequest(model="pocket"))
    await service.stub.UnloadModel(pb.UnloadModelRequest(model="pocket"))
    await service.stub.DeleteModel(pb.DeleteModelRequest(model="pocket"))
    assert (await service.stub.ListModels(pb.ListModelsRequest())).models == []


async def test_ending_the_call_does_not_undo_the_load(mesh, service):
    host = await mesh.host()
    host.runtime.hold = True
    await service.register()
    call = service.stub.LoadModel(pb.LoadModelRequest(model="pocket"))
    await anext(aiter(call))
    call.cancel()
    while not host.runtime.engines:
        await asyncio.sleep(0.01)
    host.runtime.hold = False
    await _ready_once_started(host.runtime)
    await service.until("pocket", lambda v: v.state == READY)


async def test_the_bare_name_refers_to_the_ready_version(mesh, service):
    await mesh.host()
    await service.register()
    await service.load()
    assert (await service.register(rows=16)).version == 2
    assert (await service.model()).default_version == 1
    assert (await service.load("pocket@2")).version == 2
    assert (await service.model()).default_version == 2


async def test_replicas_leave_a_draining_runtime_once_replacements_serve(mesh, service):
    async def until(condition):
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)

    old = await mesh.host(FakeRuntime("runtime-old"))
    await service.register()
    await service.load(replicas=2)
    new = await mesh.host(FakeRuntime("runtime-new"))
    new.runtime.hold = True
    assert old.instance is not None
    await mesh.registry.register(old.instance.as_draining())

    await until(lambda: len(new.runtime.engines) == 2)
    assert old.runtime.stops == []
    new.runtime.hold = False
    first, second = sorted(new.runtime.engines)
    new.runtime.set_state(first, runtime_pb2.ENGINE_STATE_READY)
    await until(lambda: len(old.runtime.stops) == 1)
    new.runtime.set_state(second, runtime_pb2.ENGINE_STATE_READY)
    await until(lambda: not old.runtime.engines)
    await service.until("pocket@1", lambda v: v.ready_replicas == 2)


async def test_a_model_refused_by_its_engine_is_a_failed_precondition(mesh, service):
    host = await mesh.host()
    host.runtime.hold = True
    await service.register()
    loading = asyncio.create_task(service.load())
    while not host.runtime.engines:
        await asyncio.sleep(0.01)
    [engine_id] = host.runtime.engines
    host.runtime.refuse_model(engine_id, "Missing 2 parameters: \na,\nb.")
    with pytest.raises(ModelRefused, match=re.escape("pocket@1: Missing 2 parameters: \na,\nb.")):
        await loading
    assert (await service.version()).failure.code == 9


async def test_a_load_may_ask_for_groups_and_shows_where_their_ranks_run(mesh, service):
    hosts = [await mesh.host(FakeRuntime("runtime-1")), await mesh.host(FakeRuntime("runtime-2"))]
    for host in hosts:
        host.runtime.hold = True
    await service.register()
    loading = asyncio.create_task(service.load(group_size=2, group_split="pipeline"))
    while not (started := [host for host in hosts if host.runtime.engines]):
        await asyncio.sleep(0.01)
    runtime = started[0].runtime
    [engine_id] = runtime.engines
    assert runtime.options[engine_id].group_size == 2
    assert runtime.options[engine_id].group_split == "pipeline"
    rank = Rank(rank=1, runtime_id="runtime-2", pid=7, round_trip_us=300)
    runtime.engines[engine_id].ranks.append(rank)
    runtime.set_state(engine_id, runtime_pb2.ENGINE_STATE_READY)
    version = await loading
    assert (version.group_size, version.group_split) == (2, "pipeline")
    [group] = (await service.version()).groups
    assert group == version.groups[0]
    assert group.engine_id == engine_id
    leader = "runtime-1" if started[0] is hosts[0] else "runtime-2"
    assert [
        (each.rank, each.runtime_id, each.host, each.round_trip_us) for each in group.ranks
    ] == [
        (0, leader, "127.0.0.1", 0),
        (1, "runtime-2", "127.0.0.1", 300),
    ]


async def test_later_loads_keep_the_group_until_one_says_otherwise(mesh, service):
    await mesh.host()
    await service.register()
    plain = await service.load()
    assert (plain.group_size, plain.group_split) == (1, "")
    assert (await service.load(group_size=2)).group_size == 2
    assert (await service.load(replicas=2)).group_size == 2
    assert (await service.load(profile="default")).group_size == 1
    assert (await service.load(profile="default", group_size=3)).group_size == 3
    one = await service.load(group_size=1)
    assert one.group_size == 1
    assert not one.groups


async def test_a_load_shows_how_far_its_runtime_fetches_the_files(mesh, service):
    host = await mesh.host()
    host.runtime.hold = True
    registered = await service.register()
    call = service.stub.LoadModel(pb.LoadModelRequest(model="pocket"))
    while not host.runtime.engines:
        await asyncio.sleep(0.01)
    [engine_id] = host.runtime.engines
    assert host.runtime.files[engine_id].digest == registered.model.versions[0].digest
    assert host.runtime.files[engine_id].weights_bytes == registered.model.versions[0].weights_bytes
    host.runtime.engines[engine_id].fetch.MergeFrom(FetchProgress(done_bytes=5, total_bytes=10))
    message = await anext(aiter(call))
    while not message.version.fetches:
        message = await anext(aiter(call))
    assert message.version.fetches["runtime-1"] == pb.FileFetch(done_bytes=5, total_bytes=10)
    assert (await service.version()).fetches["runtime-1"].done_bytes == 5
    host.runtime.engines[engine_id].ClearField("fetch")
    host.runtime.set_state(engine_id, runtime_pb2.ENGINE_STATE_READY)
    last = [message async for message in call][-1]
    assert last.version.ready_replicas == 1
    assert not last.version.fetches


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (8, "DISK_FULL", DiskFull),
        (9, "MODEL_FILES_DAMAGED", ModelFilesDamaged),
        (14, "FETCH_FAILED", FetchFailed),
    ],
)
async def test_a_load_ends_with_the_error_of_the_fetch(mesh, service, code, reason, error):
    host = await mesh.host()
    host.runtime.hold = True
    await service.register()
    loading = asyncio.create_task(service.load())
    while not host.runtime.engines:
        await asyncio.sleep(0.01)
    [engine_id] = host.runtime.engines
    failure = Failure(code=code, reason=reason, message="free space, then load again")
    host.runtime.set_state(engine_id, runtime_pb2.ENGINE_STATE_FAILED, failure=failure)
    with pytest.raises(error, match="free space, then load again"):
        await loading


@pytest.mark.parametrize(("code", "reason"), [(8, "DISK_FULL"), (14, "FETCH_FAILED")])
async def test_a_replica_whose_fetch_failed_is_started_again(mesh, service, code, reason):
    host = await mesh.host()
    await service.register()
    await service.load()
    [engine_id] = host.runtime.engines
    host.runtime.hold = True
    failure = Failure(code=code, reason=reason, message="no process sent any of it")
    for starts in (2, 3):
        host.runtime.set_state(engine_id, runtime_pb2.ENGINE_STATE_FAILED, failure=failure)
        failed = await service.until("pocket", lambda v: v.state == pb.VERSION_STATE_FAILED)
        assert (failed.failure.reason, failed.retry_in_ms) == (reason, 60_000)
        while len(host.runtime.starts) < starts:
            await asyncio.sleep(0.01)
    host.runtime.set_state(engine_id, runtime_pb2.ENGINE_STATE_READY)
    await service.until("pocket", lambda v: v.state == READY and not v.HasField("failure"))
    assert host.runtime.starts == [engine_id] * 3


async def test_a_runtime_without_the_files_is_reported(mesh, service):
    """When only one of two hosts has the files, nothing may suggest that both serve."""
    bare = await mesh.host(FakeRuntime("runtime-bare", available_bytes=9 * 2**30))
    full = await mesh.host(FakeRuntime("runtime-full"))
    bare.runtime.refuse_with = InvalidArgument(
        "model_dir is not a directory on the runtime's host: /x", field="model_dir"
    )
    await service.register()

    version = await service.load(replicas=2)

    assert (version.ready_replicas, len(full.runtime.engines)) == (2, 2)
    why = f"runtime-bare does not have the files of pocket@1: {mesh.tmp_path / 'pocket-8'}"
    for shown in (version, await service.version(), (await service.model("pocket")).versions[0]):
        assert list(shown.rejections) == ["runtime-bare"]
        assert shown.rejections["runtime-bare"].reason == "MODEL_FILES_MISSING"
        assert shown.rejections["runtime-bare"].message.startswith(why)
    [event] = [event for event in mesh.events if isinstance(event, ModelReplicaRejected)]
    assert (event.model, event.version, event.runtime_id) == ("pocket", 1, "runtime-bare")
    assert event.failure.message.startswith(why)


async def test_no_runtime_has_the_files(mesh, service):
    host = await mesh.host()
    host.runtime.refuse_with = InvalidArgument("model_dir is missing", field="model_dir")
    await service.register()
    with pytest.raises(ModelFilesMissing, match=r"runtime-1 does not have the files of pocket@1"):
        await service.load()

    host.runtime.refuse_with = None
    await service.until("pocket", lambda v: v.state == READY and not v.rejections)


async def test_rejections_are_removed_when_the_version_is_unloaded(mesh, service):
    host = await mesh.host()
    host.runtime.refuse_with = InsufficientMemory("needs 4 GiB, has 3 GiB")
    await service.register()
    with pytest.raises(InsufficientMemory):
        await service.load()
    assert "runtime-1" in (await service.version()).rejections
    await service.stub.UnloadModel(pb.UnloadModelRequest(model="pocket"))
    await service.until("pocket", lambda v: not v.rejections)


async def test_a_failed_load_reports_its_retry(mesh, service):
    await service.register()
    with pytest.raises(NoRuntime):
        await service.load()
    assert (await service.version()).retry_in_ms == 10_000
    [event] = [event for event in mesh.events if isinstance(event, ModelLoadFailed)]
    assert (event.failure.reason, event.retry_in_ms) == ("NO_RUNTIME", 10_000)


async def test_a_failed_engine_is_retried_only_by_a_new_load(mesh, service):
    host = await mesh.host()
    await service.register()
    await service.load()
    [engine_id] = host.runtime.engines
    host.runtime.fail(engine_id)
    failed = await service.until("pocket", lambda v: v.state == pb.VERSION_STATE_FAILED)
    assert failed.retry_in_ms == 0


async def test_an_unplaced_replica_is_an_event_although_others_serve(mesh, service):
    host = await mesh.host()
    await service.register()
    await service.load()
    host.runtime.refuse_with = InsufficientMemory("needs 4 GiB, has 3 GiB")
    with pytest.raises(InsufficientMemory):
        await service.load(replicas=2)
    assert (await service.version()).state == READY
    [event] = [event for event in mesh.events if isinstance(event, ModelLoadFailed)]
    assert (event.failure.reason, event.retry_in_ms) == ("INSUFFICIENT_MEMORY", 10_000)
