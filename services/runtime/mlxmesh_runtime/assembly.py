"""The runtime service put together from its parts, as the settings want it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from mlxmesh.artifact.v1.transfer_pb2_grpc import add_TransferServiceServicer_to_server
from mlxmesh.runtime.v1.runtime_pb2_grpc import add_RuntimeServiceServicer_to_server
from mlxmesh_runtime.device import Device, free_memory
from mlxmesh_runtime.engine_command import EngineCommand
from mlxmesh_runtime.engine_run import EngineHost
from mlxmesh_runtime.engines import Engines
from mlxmesh_runtime.files.engine_files import FetchedEngineFiles
from mlxmesh_runtime.files.fetches import Fetches, FetchLimits
from mlxmesh_runtime.files.held_files import HeldFiles
from mlxmesh_runtime.files.sources import MeshSources
from mlxmesh_runtime.heartbeat import GrpcEngineProbe, HeartbeatLimits
from mlxmesh_runtime.memory_guard import MemoryLimits
from mlxmesh_runtime.memory_watch import MemoryWatch
from mlxmesh_runtime.runtimes import MeshRuntimes
from mlxmesh_runtime.servicer import RuntimeServicer
from mlxmesh_runtime.spare_engine import SpareEngine
from mlxmesh_runtime.supervisor import RestartLimits
from mlxmesh_shared.artifacts.servicer import SERVICE as TRANSFER_SERVICE
from mlxmesh_shared.artifacts.servicer import TransferServicer
from mlxmesh_shared.artifacts.uploads import Uploads
from mlxmesh_shared.events import Publish
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import RuntimeSettings


@dataclass(slots=True)
class Files:
    """What brings files to this host and sends them to others."""

    held: HeldFiles
    sources: MeshSources
    fetches: Fetches
    uploads: Uploads
    address: str = ""
    """Where this runtime listens, once it does; engines have it fetch adapters."""

    def own_address(self) -> str:
        """The address."""
        return self.address


def open_files(
    process: ServiceProcess[RuntimeSettings], registry: Registry, publish: Publish
) -> Files:
    """The files of this host; the caller closes the sources."""
    settings = process.settings
    held = HeldFiles(settings.data_dir)
    sources = MeshSources(registry, instance_id=process.instance_id, open_=process.open_channel)
    fetches = Fetches(
        held,
        sources,
        runtime_id=process.instance_id,
        limits=FetchLimits(
            stall_s=settings.fetch_stall_timeout_s, max_bytes=settings.fetched_files_bytes
        ),
        publish=publish,
    )
    uploads = Uploads()
    fetches.observe(process.telemetry.of_process.metrics)
    uploads.observe(process.telemetry.of_process.metrics)
    return Files(held, sources, fetches, uploads)


def open_engines(
    process: ServiceProcess[RuntimeSettings],
    registry: Registry,
    command: EngineCommand,
    spare: SpareEngine,
    device: Device,
    publish: Publish,
    files: Files,
) -> Engines:
    """The engines of this host, none of which runs yet."""
    settings = process.settings
    return Engines(
        host=_engine_host(process, registry, command, spare, files),
        limits=RestartLimits(
            backoff_min_s=settings.restart_backoff_min_s,
            backoff_max_s=settings.restart_backoff_max_s,
            breaker_failures=settings.breaker_failures,
            failure_reset_s=settings.failure_reset_s,
        ),
        free_memory=partial(free_memory, device.kind),
        memory_limits=_memory_limits(settings),
        publish=publish,
    )


def open_memory_watch(
    process: ServiceProcess[RuntimeSettings], engines: Engines, device: Device, publish: Publish
) -> MemoryWatch:
    """Watches the memory of this host once it runs."""
    watch = MemoryWatch(
        engines=engines,
        limits=_memory_limits(process.settings),
        read_memory=partial(free_memory, device.kind),
        runtime_id=process.instance_id,
        # Elsewhere, reading the memory starts a process.
        interval_s=1.0 if device.kind == "cpu" else 5.0,
        publish=publish,
    )
    watch.observe(process.telemetry.of_process.metrics)
    return watch


def _memory_limits(settings: RuntimeSettings) -> MemoryLimits:
    return MemoryLimits(
        fraction=settings.memory_fraction, engine_bytes=settings.engine_memory_bytes
    )


def _engine_host(
    process: ServiceProcess[RuntimeSettings],
    registry: Registry,
    command: EngineCommand,
    spare: SpareEngine,
    files: Files,
) -> EngineHost:
    settings = process.settings
    engine_files = FetchedEngineFiles(
        files.held, files.sources, files.fetches, shared_paths=settings.shared_paths
    )
    return EngineHost(
        runtime_id=process.instance_id,
        mesh=settings,
        registry=registry,
        command=command,
        logs_dir=settings.data_dir / "logs",
        heartbeat=HeartbeatLimits(
            interval_s=settings.heartbeat_interval_s,
            timeout_s=settings.heartbeat_timeout_s,
            liveness_timeout_s=settings.liveness_timeout_s,
            step_stall_timeout_s=settings.step_stall_timeout_s,
        ),
        start_timeout_s=settings.start_timeout_s,
        spare=spare,
        files=engine_files,
        runtime_address=files.own_address,
        stop_grace_s=settings.stop_grace_s,
        runtimes=MeshRuntimes(process.instance_id, registry, process.open_channel),
        open_probe=partial(GrpcEngineProbe, open_=process.open_channel),
    )


def make_server(
    process: ServiceProcess[RuntimeSettings],
    engines: Engines,
    memory: MemoryWatch,
    device: Device,
    files: Files,
) -> MeshServer:
    """The server with its servicer."""
    settings = process.settings
    servicer = RuntimeServicer(
        engines=engines,
        memory=memory,
        device=device,
        runtime_id=process.instance_id,
        stop_grace_s=settings.stop_grace_s,
        fetches=files.fetches,
    )
    transfers = TransferServicer(files.held, files.uploads)
    return process.make_server(
        settings.listen,
        services=[
            (add_RuntimeServiceServicer_to_server, servicer),
            (add_TransferServiceServicer_to_server, transfers),
        ],
        service_names=["mlxmesh.runtime.v1.RuntimeService", TRANSFER_SERVICE],
        options=ServerOptions(log_successes=False, reflection=settings.reflection),
    )
