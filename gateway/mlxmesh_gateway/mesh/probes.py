"""The gateway's questions to a process about itself; silence for a second counts as an answer."""

from collections.abc import Sequence

from grpc import aio

from mlxmesh.engine.v1.engine_pb2 import GetEngineInfoRequest
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh.telemetry.v1 import telemetry_pb2 as wire
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceStub
from mlxmesh.telemetry.v1.traffic_pb2 import GetTrafficRequest, TrafficCounts
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.health import health_by

TIMEOUT_S = 1.0

_HEALTH = {"serving": wire.HEALTH_SERVING, "unreachable": wire.HEALTH_UNREACHABLE}


async def health_of(channel: aio.Channel) -> "wire.Health.ValueType":
    """The health of the whole process, by its health service."""
    said = await health_by(channel, timeout_s=TIMEOUT_S)
    return _HEALTH.get(said, wire.HEALTH_NOT_SERVING)


async def engine_load(channel: aio.Channel) -> wire.Load:
    """An engine's load; zeros without an answer."""
    try:
        info = await EngineServiceStub(channel).GetEngineInfo(
            GetEngineInfoRequest(), timeout=TIMEOUT_S
        )
    except MeshError:
        return wire.Load()
    return wire.Load(
        running=info.load.running,
        waiting=info.load.waiting,
        max_running=info.load.max_running,
        kv_bytes=info.load.kv_bytes,
        kv_capacity_bytes=info.load.kv_capacity_bytes,
        tokens_per_second=info.load.tokens_per_second,
        prefix_bytes=info.load.prefix_bytes,
        prompt_tokens=info.load.prompt_tokens,
        cached_prompt_tokens=info.load.cached_prompt_tokens,
        prefix_disk_bytes=info.load.prefix_disk_bytes,
        background=info.load.background_running + info.load.background_waiting,
    )


async def engines_seen(channel: aio.Channel) -> Sequence[wire.Instance]:
    """The engines as one generation instance sees them; none without an answer."""
    try:
        response = await TelemetryServiceStub(channel).GetMeshStatus(
            wire.GetMeshStatusRequest(), timeout=TIMEOUT_S
        )
    except MeshError:
        return ()
    return response.instances


async def traffic(channel: aio.Channel) -> Sequence[TrafficCounts] | None:
    """The traffic of another gateway; None without an answer."""
    try:
        response = await TelemetryServiceStub(channel).GetTraffic(
            GetTrafficRequest(), timeout=TIMEOUT_S
        )
    except MeshError:
        return None
    return response.models
