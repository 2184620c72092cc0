"""The runtimes of the mesh, by gRPC: implements `group_ranks.Runtimes`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence

from grpc.aio import Channel

from mlxmesh.runtime.v1.runtime_pb2_grpc import RuntimeServiceStub
from mlxmesh_runtime.convert import INFO_REQUEST, host_rank_request, rank_state_from
from mlxmesh_runtime.engine_command import RankPlace
from mlxmesh_runtime.engine_record import EngineSpec
from mlxmesh_runtime.rank_placement import Candidate
from mlxmesh_runtime.rank_state import RankState
from mlxmesh_shared.errors import EngineLost, MeshError, NoRuntime
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.rpc.channels import WATCH_TIMEOUTS, OpenChannel
from mlxmesh_shared.rpc.health import health_by

_TIMEOUT_S = 2.0
_ROUND_TRIPS = 8
_MEASURE_TIMEOUT_S = 1.0
# At the same time: calls that wait for each other in this process would look like slow links.
_MEASUREMENTS = 4


class MeshRuntimes:
    """Finds the others in the registry."""

    def __init__(self, own_id: str, registry: Registry, open_channel: OpenChannel) -> None:
        self.own_id = own_id
        self._registry = registry
        self._open = open_channel

    async def candidates(self) -> Sequence[Candidate]:
        """Those that do not drain; with a problem if they do not respond."""
        instances = [each for each in await self._registry.resolve("runtime") if not each.draining]
        measuring = asyncio.Semaphore(_MEASUREMENTS)
        return await asyncio.gather(*(self._candidate(each, measuring) for each in instances))

    async def hold(
        self, runtime_id: str, spec: EngineSpec, place: RankPlace
    ) -> AsyncIterator[RankState]:
        """As `Runtimes.hold`."""
        instances = await self._registry.resolve("runtime")
        address = next((i.address for i in instances if i.instance_id == runtime_id), None)
        if address is None:
            raise NoRuntime(f"{runtime_id} is not registered any more")
        channel = self._open(address, role="runtime", timeouts=WATCH_TIMEOUTS)
        try:
            call = RuntimeServiceStub(channel).HostRank(host_rank_request(spec, place))
            async for response in call:
                yield rank_state_from(response)
            raise EngineLost("its process has ended")
        finally:
            await channel.close()

    async def _candidate(self, instance: Instance, measuring: asyncio.Semaphore) -> Candidate:
        channel = self._open(instance.address, role="runtime", timeouts=WATCH_TIMEOUTS)
        try:
            stub = RuntimeServiceStub(channel)
            info = await stub.GetRuntimeInfo(INFO_REQUEST, timeout=_TIMEOUT_S)
            round_trip_ms = 0.0
            if instance.instance_id != self.own_id:
                async with measuring:
                    round_trip_ms = await _round_trip_ms(channel)
        except MeshError as error:
            return Candidate(instance.instance_id, 0, math.inf, error.message)
        finally:
            await channel.close()
        return Candidate(instance.instance_id, info.memory_available_bytes, round_trip_ms)


async def _round_trip_ms(channel: Channel) -> float:
    """The fastest of some health checks on an open connection, as load only makes them slower;
    infinite without any in time.
    """
    times_ms: list[float] = []
    try:
        async with asyncio.timeout(_MEASURE_TIMEOUT_S):
            while len(times_ms) < _ROUND_TRIPS:
                begin_s = time.perf_counter()
                if await health_by(channel) == "unreachable":
                    break
                times_ms.append((time.perf_counter() - begin_s) * 1e3)
    except TimeoutError:
        pass
    return min(times_ms, default=math.inf)
