"""Sends outcomes to any model service of the mesh."""

from mlxmesh.model.v1.history_pb2_grpc import HistoryServiceStub
from mlxmesh_generation.reporting import convert
from mlxmesh_generation.reporting.batch_link import TIMEOUT_S, BatchLink
from mlxmesh_generation.reporting.reporter import Batch
from mlxmesh_shared.registry.port import Registry
from mlxmesh_shared.rpc.channels import ChannelPool


class HistoryLink:
    """Its `send` satisfies Send of the reporter."""

    def __init__(self, registry: Registry, channels: ChannelPool, instance_id: str) -> None:
        """instance_id: of this instance; another process with the same one counts separately."""
        self._link = BatchLink(registry, channels, instance_id)

    async def send(self, batch: Batch) -> None:
        """Returns once it is recorded. Raises: as BatchLink.send()."""
        request = convert.record_request(self._link.sender, batch)
        await self._link.send(
            lambda channel: HistoryServiceStub(channel).RecordOutcomes(request, timeout=TIMEOUT_S)
        )
