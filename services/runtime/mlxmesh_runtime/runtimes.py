"""The runtimes of the mesh, by gRPC: implements `group_ranks.Runtimes`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from mlxmesh.runtime.v1.runtime_pb2_grpc import RuntimeServiceStub
from mlxmesh_runtime.convert import INFO_REQUEST, host_rank_request, rank_state_from
from mlxmesh_runtime.engine_command import RankPlace
from mlxmesh_runtime.engine_record import EngineSpec
from mlxmesh_runtime.group_ranks import Candidate
from mlxmesh_runtime.rank_state import RankState
from mlxmesh_shared.errors import EngineLost, MeshError, NoRuntime
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.rpc.channels import WATCH_TIMEOUTS, OpenChannel

_TIMEOUT_S = 2.0


class MeshRuntimes:
    """Finds the others in the registry."""

    def __init__(self, own_id: str, registry: Registry, open_channel: OpenChannel) -> None:
        self.own_id = own_id
        self._registry = registry
        self._open = open_channel

    async def candidates(self) -> Sequence[Candidate]:
        """Those that respond and do not drain."""
        instances = [each for each in await self._registry.resolve("runtime") if not each.draining]
        found = await asyncio.gather(*map(self._candidate, instances))
        return [each for each in found if each is not None]

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

    async def _candidate(self, instance: Instance) -> Candidate | None:
        channel = self._open(instance.address, role="runtime", timeouts=WATCH_TIMEOUTS)
        try:
            stub = RuntimeServiceStub(channel)
            info = await stub.GetRuntimeInfo(INFO_REQUEST, timeout=_TIMEOUT_S)
        except MeshError:
            return None
        finally:
            await channel.close()
        return Candidate(instance.instance_id, info.memory_available_bytes)
