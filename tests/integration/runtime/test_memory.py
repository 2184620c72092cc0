"""The memory guard of a runtime: what it refuses, counts and tells."""

import asyncio
from pathlib import Path

import pytest
from google.protobuf.message import Message

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh.telemetry.v1 import events_pb2
from mlxmesh_runtime.memory_guard import ENGINE_OVERHEAD_BYTES, Memory, MemoryLimits
from mlxmesh_runtime.memory_watch import MemoryWatch
from mlxmesh_shared.errors import InsufficientMemory
from tests.integration.runtime.harness import PATIENCE_S, RuntimeUnderTest, running_runtime

GIB = 2**30
ROOM_FOR_TWO = MemoryLimits(fraction=0.9, engine_bytes=2 * ENGINE_OVERHEAD_BYTES + 2**20)


async def info(runtime: RuntimeUnderTest) -> pb.GetRuntimeInfoResponse:
    return await runtime.stub.GetRuntimeInfo(pb.GetRuntimeInfoRequest())


async def test_loading_engines_count_before_they_use_their_memory(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, memory_limits=ROOM_FOR_TWO) as runtime:
        runtime.behave(load_s=PATIENCE_S)
        await runtime.start("e1")
        await runtime.start("e2")
        with pytest.raises(InsufficientMemory, match="engines may use 513 MiB on this host"):
            await runtime.start("e3")
        assert (await info(runtime)).memory_available_bytes < ENGINE_OVERHEAD_BYTES
        await runtime.stop("e1", grace_ms=0)
        await runtime.start("e3")


async def test_ready_engines_keep_their_place_and_stopped_ones_free_it(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, memory_limits=ROOM_FOR_TWO) as runtime:
        for engine_id in ("e1", "e2"):
            await runtime.start_ready(engine_id)
        facts = await info(runtime)
        assert facts.memory_limit_bytes == ROOM_FOR_TWO.engine_bytes
        assert 0 < facts.engines_bytes < facts.memory_limit_bytes
        with pytest.raises(InsufficientMemory):
            await runtime.start("e3")
        await runtime.start("e1")  # it runs: nothing is started
        await runtime.stop("e2")
        await runtime.start_ready("e3")


class Host:
    """A host whose memory tests change."""

    def __init__(self) -> None:
        self.memory = Memory(total_bytes=16 * GIB, available_bytes=8 * GIB)
        self.events: list[tuple[Message, str]] = []

    async def read(self) -> Memory:
        return self.memory

    def have(self, available_bytes: int) -> None:
        self.memory = Memory(16 * GIB, available_bytes)

    def publish(self, payload: Message, correlation_id: str = "") -> None:
        self.events.append((payload, correlation_id))


async def test_a_shortage_is_told_once_when_it_begins_and_once_when_it_ends(
    runtime: RuntimeUnderTest,
) -> None:
    host = Host()
    watch = MemoryWatch(
        engines=runtime.engines,
        limits=MemoryLimits(fraction=0.9),
        read_memory=host.read,
        runtime_id="runtime-1",
        interval_s=0.001,
        publish=host.publish,
        clock=lambda: 0.0,
    )
    await runtime.start_ready()
    changes = aiter(runtime.stub.WatchEngines(pb.WatchEnginesRequest()))
    while not (await anext(changes)).synced:
        pass
    running = asyncio.create_task(watch.run())
    async with asyncio.timeout(PATIENCE_S):
        host.have(0)
        short = await anext(changes)
        host.have(8 * GIB)
        recovered = await anext(changes)
    running.cancel()
    assert short.memory_shortage_bytes > 0
    assert not short.HasField("engine")
    assert recovered.HasField("memory_shortage_bytes")
    assert recovered.memory_shortage_bytes == 0
    (begun, subject), (ended, _) = host.events
    assert isinstance(begun, events_pb2.EngineMemoryShort)
    assert begun.shortage_bytes == begun.engines_bytes == short.memory_shortage_bytes
    assert begun.limit_bytes == round(0.9 * 16 * GIB)
    assert subject == "runtime-1"
    assert isinstance(ended, events_pb2.EngineMemoryRecovered)
    assert ended.available_bytes == 8 * GIB
    assert (await runtime.get()).state == pb.ENGINE_STATE_READY  # nothing was stopped


async def test_a_host_that_cannot_be_read_is_sampled_again(runtime: RuntimeUnderTest) -> None:
    reads = 0

    async def read() -> Memory:
        nonlocal reads
        reads += 1
        if reads < 3:
            raise OSError("no /proc")
        return Memory(total_bytes=16 * GIB, available_bytes=8 * GIB)

    watch = MemoryWatch(
        engines=runtime.engines,
        limits=MemoryLimits(fraction=0.5),
        read_memory=read,
        runtime_id="runtime-1",
        interval_s=0.001,
    )
    running = asyncio.create_task(watch.run())
    async with asyncio.timeout(PATIENCE_S):
        while watch.status is None:
            await asyncio.sleep(0.001)
    running.cancel()
    assert watch.status.limit_bytes == 8 * GIB
