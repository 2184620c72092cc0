"""A runtime served on loopback with real engine processes, and a client for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh.runtime.v1 import runtime_pb2_grpc as pb_grpc
from mlxmesh_runtime.device import find_device
from mlxmesh_runtime.engine_command import EngineCommand
from mlxmesh_runtime.engine_run import EngineHost
from mlxmesh_runtime.engines import Engines
from mlxmesh_runtime.files.engine_files import EngineFiles, FilesInPlace
from mlxmesh_runtime.files.fetches import Fetches
from mlxmesh_runtime.heartbeat import HeartbeatLimits
from mlxmesh_runtime.memory_guard import Memory, MemoryLimits
from mlxmesh_runtime.memory_watch import MemoryWatch
from mlxmesh_runtime.servicer import RuntimeServicer
from mlxmesh_runtime.spare_engine import SpareEngine
from mlxmesh_runtime.supervisor import RestartLimits
from mlxmesh_shared.registry.directory import DirectoryRegistry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import MeshSettings
from tests.fakes import engine_process

RUNTIME_ID = "runtime-test"
PATIENCE_S = 30.0
MEMORY_LIMITS = MemoryLimits(fraction=0.9)
PLENTY = Memory(total_bytes=64 * 2**30, available_bytes=32 * 2**30)

READY = pb.ENGINE_STATE_READY
BACKOFF = pb.ENGINE_STATE_BACKOFF
FAILED = pb.ENGINE_STATE_FAILED
STARTING = pb.ENGINE_STATE_STARTING
DRAINING = pb.ENGINE_STATE_DRAINING
STOPPED = pb.ENGINE_STATE_STOPPED


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits that are short enough for tests."""

    interval_s: float = 0.1
    timeout_s: float = 5.0
    liveness_timeout_s: float = 20.0
    step_stall_timeout_s: float = 30.0
    start_timeout_s: float = PATIENCE_S
    backoff_min_s: float = 0.05
    breaker_failures: int = 5
    failure_reset_s: float = 600.0


@dataclass
class RuntimeUnderTest:
    """A running runtime as its client sees it."""

    stub: pb_grpc.RuntimeServiceStub
    engines: Engines
    registry: DirectoryRegistry
    model_dir: Path
    address: str

    def behave(self, **how: Any) -> None:
        """Set the behaviour of engines from now on; see engine_process.Behaviour."""
        engine_process.Behaviour(**how).write(self.model_dir)

    async def start(self, engine_id: str = "e1", **changes: Any) -> pb.Engine:
        request = pb.StartEngineRequest(
            engine_id=engine_id, model="tiny", model_version=1, model_dir=str(self.model_dir)
        )
        for name, value in changes.items():
            setattr(request, name, value)
        return (await self.stub.StartEngine(request)).engine

    async def start_ready(self, engine_id: str = "e1") -> pb.Engine:
        await self.start(engine_id)
        return await self.until_state(READY, engine_id)

    async def get(self, engine_id: str = "e1") -> pb.Engine:
        return (await self.stub.GetEngine(pb.GetEngineRequest(engine_id=engine_id))).engine

    async def listed(self) -> pb.Engine:
        """The only engine, as ListEngines shows it."""
        [engine] = (await self.stub.ListEngines(pb.ListEnginesRequest())).engines
        return engine

    async def stop(self, engine_id: str = "e1", grace_ms: int | None = None) -> None:
        await self.stub.StopEngine(pb.StopEngineRequest(engine_id=engine_id, grace_ms=grace_ms))

    async def until(
        self, condition: Callable[[pb.Engine], bool], engine_id: str = "e1"
    ) -> pb.Engine:
        """Watch until the engine meets the condition, and return it."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                async for change in self.stub.WatchEngines(pb.WatchEnginesRequest()):
                    if change.engine.engine_id == engine_id and condition(change.engine):
                        return change.engine
        except TimeoutError:
            raise AssertionError(f"not reached: {await self.get(engine_id)}") from None
        raise AssertionError("the watch ended")

    async def until_state(
        self, state: pb.EngineState.ValueType, engine_id: str = "e1"
    ) -> pb.Engine:
        return await self.until(lambda engine: engine.state == state, engine_id)

    async def until_ready_again(self, restarts: int) -> pb.Engine:
        return await self.until(lambda e: e.state == READY and e.restarts >= restarts)

    async def registered(self) -> list[str]:
        return [instance.instance_id for instance in await self.registry.resolve("engine")]


@asynccontextmanager
async def running_runtime(
    folder: Path,
    limits: Limits | None = None,
    *,
    program: Sequence[str] = (),
    memory: Memory = PLENTY,
    memory_limits: MemoryLimits = MEMORY_LIMITS,
    open_registry: Callable[[Path], DirectoryRegistry] = DirectoryRegistry,
    files: EngineFiles | None = None,
    fetches: Fetches | None = None,
) -> AsyncIterator[RuntimeUnderTest]:
    """Serve a runtime with its files in `folder`; stops its engines at the end."""
    limits = limits or Limits()
    async with AsyncExitStack() as stack:
        registry = open_registry(folder / "registry")
        stack.push_async_callback(registry.close)
        command = EngineCommand(
            mesh=MeshSettings(data_dir=folder), program=program or engine_process.command()
        )
        engines = _engines(
            limits, _host(folder, limits, registry, command, files), memory, memory_limits
        )
        watch = _watch(engines, memory, memory_limits)
        server = _server(engines, watch, await find_device(), fetches)
        address = await server.start()
        stack.push_async_callback(server.drain, 0, 0)
        stack.push_async_callback(engines.close, 0)
        await server.set_serving()
        channel = await stack.enter_async_context(open_channel(address))
        yield RuntimeUnderTest(
            stub=pb_grpc.RuntimeServiceStub(channel),
            engines=engines,
            registry=registry,
            model_dir=engine_process.write_model_dir(folder / "model"),
            address=address,
        )


def _host(
    folder: Path,
    limits: Limits,
    registry: DirectoryRegistry,
    command: EngineCommand,
    files: EngineFiles | None = None,
) -> EngineHost:
    return EngineHost(
        mesh=MeshSettings(data_dir=folder),
        runtime_id=RUNTIME_ID,
        registry=registry,
        command=command,
        logs_dir=folder / "logs",
        heartbeat=HeartbeatLimits(
            interval_s=limits.interval_s,
            timeout_s=limits.timeout_s,
            liveness_timeout_s=limits.liveness_timeout_s,
            step_stall_timeout_s=limits.step_stall_timeout_s,
        ),
        start_timeout_s=limits.start_timeout_s,
        stop_grace_s=PATIENCE_S,
        spare=SpareEngine(()),
        files=files or FilesInPlace(),
    )


def _reading(memory: Memory) -> Callable[[], Awaitable[Memory]]:
    async def read() -> Memory:
        return memory

    return read


def _watch(engines: Engines, memory: Memory, memory_limits: MemoryLimits) -> MemoryWatch:
    return MemoryWatch(
        engines=engines,
        limits=memory_limits,
        read_memory=_reading(memory),
        runtime_id=RUNTIME_ID,
    )


def _engines(
    limits: Limits, host: EngineHost, memory: Memory, memory_limits: MemoryLimits
) -> Engines:
    return Engines(
        host=host,
        limits=RestartLimits(
            backoff_min_s=limits.backoff_min_s,
            backoff_max_s=1.0,
            breaker_failures=limits.breaker_failures,
            failure_reset_s=limits.failure_reset_s,
        ),
        free_memory=_reading(memory),
        memory_limits=memory_limits,
    )


def _server(
    engines: Engines, watch: MemoryWatch, device: Any, fetches: Fetches | None
) -> MeshServer:
    servicer = RuntimeServicer(
        engines=engines,
        memory=watch,
        device=device,
        runtime_id=RUNTIME_ID,
        stop_grace_s=30,
        fetches=fetches,
    )
    return MeshServer(
        services=[(pb_grpc.add_RuntimeServiceServicer_to_server, servicer)],
        service_names=["mlxmesh.runtime.v1.RuntimeService"],
        name="runtime",
    )


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until_gone(pid: int) -> None:
    """Wait until a process has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while alive(pid):
            await asyncio.sleep(0.02)
