"""Start, stop and queries of an engine, with real processes of the fake engine."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh_runtime.memory_guard import Memory
from mlxmesh_shared.errors import (
    EngineDraining,
    EngineExists,
    EngineNotFound,
    InsufficientMemory,
    InvalidArgument,
)
from tests.integration.runtime.harness import (
    DRAINING,
    PATIENCE_S,
    READY,
    RUNTIME_ID,
    STARTING,
    Limits,
    RuntimeUnderTest,
    alive,
    running_runtime,
)


async def test_started_engine_becomes_ready_and_is_registered(runtime: RuntimeUnderTest) -> None:
    started = await runtime.start()
    assert started.state == STARTING
    ready = await runtime.until_state(READY)
    assert alive(ready.pid)
    assert ready.address.startswith("127.0.0.1:")
    assert ready.memory_bytes > 1_000_000
    assert ready.start_time.seconds > 1_700_000_000
    assert not ready.HasField("last_failure")
    [instance] = await runtime.registry.resolve("engine")
    assert (instance.instance_id, instance.address) == ("e1", ready.address)
    assert instance.metadata == {
        "model": "tiny",
        "version": "1",
        "device": "cpu",
        "runtime": RUNTIME_ID,
        "contract": "v1",
        "host": socket.gethostname(),
    }


async def test_a_stopped_engine_is_removed(runtime: RuntimeUnderTest) -> None:
    ready = await runtime.start_ready()
    await runtime.stop()
    assert not alive(ready.pid)
    assert await runtime.registered() == []
    with pytest.raises(EngineNotFound):
        await runtime.get()
    with pytest.raises(EngineNotFound):
        await runtime.stop()


async def test_an_engine_is_deregistered_before_it_drains(runtime: RuntimeUnderTest) -> None:
    runtime.behave(drain_s=60)
    ready = await runtime.start_ready()
    stopping = asyncio.create_task(runtime.stop())
    draining = await runtime.until_state(DRAINING)
    async with asyncio.timeout(PATIENCE_S):
        while await runtime.registered():
            await asyncio.sleep(0.01)
    assert alive(draining.pid)
    with pytest.raises(EngineDraining):
        await runtime.start()
    await runtime.stop(grace_ms=0)  # the shorter grace counts, for both calls
    await stopping
    assert not alive(ready.pid)


async def test_engine_that_ignores_the_drain_is_killed(runtime: RuntimeUnderTest) -> None:
    runtime.behave(ignore_sigterm=True)
    ready = await runtime.start_ready()
    await asyncio.gather(*(runtime.stop(grace_ms=200) for _ in range(3)))
    assert not alive(ready.pid)


async def test_a_stop_continues_after_its_caller_goes_away(runtime: RuntimeUnderTest) -> None:
    runtime.behave(drain_s=0.5)
    await runtime.start_ready()
    call = asyncio.create_task(runtime.stop())
    await runtime.until_state(DRAINING)
    call.cancel()
    async with asyncio.timeout(PATIENCE_S):
        while (await runtime.stub.ListEngines(pb.ListEnginesRequest())).engines:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("delay_s", [0.0, 0.002, 0.05, 0.5])
async def test_stop_during_the_start_leaves_nothing(
    runtime: RuntimeUnderTest, delay_s: float
) -> None:
    runtime.behave(load_s=60)
    await runtime.start()
    await asyncio.sleep(delay_s)
    pids = {(await runtime.get()).pid} - {0}
    await runtime.stop(grace_ms=0)
    assert not any(alive(pid) for pid in pids)
    assert await runtime.registered() == []


async def test_second_start_changes_nothing(runtime: RuntimeUnderTest) -> None:
    ready = await runtime.start_ready()
    again = await runtime.start()
    assert (again.state, again.pid) == (READY, ready.pid)
    with pytest.raises(EngineExists) as other:
        await runtime.start(model_version=2)
    assert other.value.field == "engine_id"


async def test_two_starts_at_once_make_one_engine(runtime: RuntimeUnderTest) -> None:
    await asyncio.gather(*(runtime.start() for _ in range(8)))
    await runtime.until_state(READY)
    assert runtime.model_dir.joinpath("fake_engine.starts").read_text() == "1"


async def test_model_dir_must_be_a_model(runtime: RuntimeUnderTest, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for model_dir in (
        "relative/path",
        str(tmp_path / "none"),
        str(tmp_path / "empty"),
        "/dev/null",
    ):
        with pytest.raises(InvalidArgument) as refusal:
            await runtime.start(model_dir=model_dir)
        assert refusal.value.field == "model_dir"
        assert model_dir in refusal.value.message
    with pytest.raises(EngineNotFound):
        await runtime.get()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("engine_id", ""),
        ("engine_id", "../up"),
        ("model", ""),
        ("model_version", 0),
        ("model_dir", ""),
    ],
)
async def test_illegal_field_is_named(runtime: RuntimeUnderTest, field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        await runtime.start(**{field: value})
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (pb.EngineOptions(kv_cache_type="2bit"), "options.kv_cache_type"),
        (pb.EngineOptions(group_size=0), "options.group_size"),
        (pb.EngineOptions(group_size=17), "options.group_size"),
        (pb.EngineOptions(group_split="rows"), "options.group_split"),
    ],
)
async def test_illegal_option_is_named(
    runtime: RuntimeUnderTest, options: pb.EngineOptions, field: str
) -> None:
    request = pb.StartEngineRequest(
        engine_id="e1",
        model="tiny",
        model_version=1,
        model_dir=str(runtime.model_dir),
        options=options,
    )
    with pytest.raises(InvalidArgument) as refusal:
        await runtime.stub.StartEngine(request)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("rank", "leader", "field"),
    [(0, "127.0.0.1:1", "rank"), (16, "127.0.0.1:1", "rank"), (1, "", "leader")],
)
async def test_an_illegal_field_of_a_rank_is_named(
    runtime: RuntimeUnderTest, rank: int, leader: str, field: str
) -> None:
    engine = pb.StartEngineRequest(
        engine_id="e1", model="tiny", model_version=1, model_dir=str(runtime.model_dir)
    )
    request = pb.HostRankRequest(engine=engine, rank=rank, leader=leader)
    with pytest.raises(InvalidArgument) as refusal:
        async for _ in runtime.stub.HostRank(request):
            pass
    assert refusal.value.field == field


async def test_a_rank_is_refused_when_its_share_of_the_weights_does_not_fit(tmp_path: Path) -> None:
    memory = Memory(total_bytes=4 * 2**30, available_bytes=2 * 2**30)
    async with running_runtime(tmp_path, memory=memory) as runtime:
        engine = pb.StartEngineRequest(
            engine_id="e1",
            model="tiny",
            model_version=1,
            model_dir=str(runtime.model_dir),
            options=pb.EngineOptions(group_size=2, group_split="pipeline"),
            files=pb.ModelFiles(digest="a" * 64, weights_bytes=4 * 2**30),
        )
        place: dict[str, Any] = {"engine": engine, "rank": 1, "leader": "127.0.0.1:1"}
        for share_ppm, needed in ((0, "2,304"), (900_000, "3,942")):
            with pytest.raises(InsufficientMemory, match=f"needs at least {needed} MiB"):
                async for _ in runtime.stub.HostRank(
                    pb.HostRankRequest(**place, share_ppm=share_ppm)
                ):
                    pass
        with pytest.raises(InvalidArgument, match="share_ppm"):
            async for _ in runtime.stub.HostRank(pb.HostRankRequest(**place, share_ppm=10**6)):
                pass


async def test_model_that_cannot_fit_is_refused_with_the_figures(tmp_path: Path) -> None:
    little = Memory(total_bytes=2**30, available_bytes=200 * 2**20)
    async with running_runtime(tmp_path, memory=little) as runtime:
        with pytest.raises(InsufficientMemory, match=r"256 MiB.*180 MiB.*1,024 MiB"):
            await runtime.start()
        with pytest.raises(EngineNotFound):
            await runtime.get()


async def test_loading_engines_are_counted(tmp_path: Path) -> None:
    for_one = Memory(total_bytes=2**30, available_bytes=500 * 2**20)
    async with running_runtime(tmp_path, memory=for_one) as runtime:
        runtime.behave(load_s=60)
        await runtime.start("e1")
        with pytest.raises(InsufficientMemory):
            await runtime.start("e2")


async def test_options_reach_the_engine(runtime: RuntimeUnderTest) -> None:
    request = pb.StartEngineRequest(
        engine_id="e1",
        model="tiny",
        model_version=1,
        model_dir=str(runtime.model_dir),
        options=pb.EngineOptions(max_running=3, max_waiting=0),
    )
    await runtime.stub.StartEngine(request)
    await runtime.until_state(READY)
    # The fake engine logs its flags.
    [flags] = [line for line in (await runtime.get()).log_tail if "flags" in line]
    assert "--max-running 3 --max-waiting 0" in flags
    assert "--prefill" not in flags


async def test_list_pages_in_the_order_of_ids(runtime: RuntimeUnderTest) -> None:
    runtime.behave(load_s=60)
    for engine_id in ("c", "a", "d", "b"):
        await runtime.start(engine_id)
    seen: list[list[str]] = []
    token = ""
    while token or not seen:
        request = pb.ListEnginesRequest(page_size=3, page_token=token)
        page = await runtime.stub.ListEngines(request)
        seen.append([engine.engine_id for engine in page.engines])
        token = page.next_page_token
    assert seen == [["a", "b", "c"], ["d"]]
    with pytest.raises(InvalidArgument) as refusal:
        await runtime.stub.ListEngines(pb.ListEnginesRequest(page_token="made up"))
    assert refusal.value.field == "page_token"


async def test_runtime_info_describes_the_host(runtime: RuntimeUnderTest) -> None:
    info = await runtime.stub.GetRuntimeInfo(pb.GetRuntimeInfoRequest())
    assert info.runtime_id == RUNTIME_ID
    assert info.device in ("cpu", "metal", "cuda")
    assert 0 < info.memory_available_bytes <= info.memory_total_bytes
    assert info.cores >= 1
    assert {"python", "grpcio", "mlxmesh"} <= set(info.versions)


async def test_engine_that_never_announces_times_out(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, Limits(start_timeout_s=1.0)) as runtime:
        runtime.behave(announce=False)
        await runtime.start()
        failed = await runtime.until(lambda engine: engine.HasField("last_failure"))
        assert failed.last_failure.reason == "ENGINE_START_FAILED"
        assert "not ready within 1 s" in failed.last_failure.message


async def test_missing_engine_program_is_a_failed_start(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, program=["/no/such/program"]) as runtime:
        await runtime.start()
        failed = await runtime.until(lambda engine: engine.HasField("last_failure"))
        assert failed.last_failure.reason == "ENGINE_START_FAILED"
        assert failed.pid == 0
