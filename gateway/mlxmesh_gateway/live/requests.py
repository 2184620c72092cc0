"""The recent requests of all gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from grpc import aio

from mlxmesh.telemetry.v1 import live_pb2 as pb
from mlxmesh.telemetry.v1.live_pb2_grpc import LiveServiceStub
from mlxmesh_gateway.forwarding.request_log import RequestLog
from mlxmesh_gateway.live.convert import Owned, owned_requests
from mlxmesh_gateway.mesh.processes import ProcessChannels
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.channels import cancel_requests

TIMEOUT_S = 1.0
GATEWAY = "gateway"


class MeshRequests:
    """Asks every other gateway; one that does not answer within a second is left out."""

    def __init__(self, log: RequestLog, processes: ProcessChannels, *, gateway_id: str) -> None:
        self.gateway_id = gateway_id
        self._log = log
        self._processes = processes

    async def all(self) -> list[Owned]:
        """Every recent request of the mesh."""
        return await RequestFeed(self).read()

    async def others(self) -> Sequence[Instance]:
        """The other gateways."""
        found = await self._processes.resolve(GATEWAY)
        return [one for one in found if one.instance_id != self.gateway_id]

    def own(self, request: pb.ReadRequestsRequest) -> pb.ReadRequestsResponse:
        """What this gateway has, for another one."""
        known = request.after_change if request.log_id == self._log.log_id else 0
        found = owned_requests(self._log, self.gateway_id, known)
        return pb.ReadRequestsResponse(
            requests=[record for _, record in found],
            owners=[owner for owner, _ in found],
            change=self._log.change,
            log_id=self._log.log_id,
        )

    async def ask(
        self, gateway: Instance, request: pb.ReadRequestsRequest
    ) -> pb.ReadRequestsResponse | None:
        """What another gateway has; None without an answer."""
        channel: aio.Channel = self._processes.channel(gateway)
        try:
            return await LiveServiceStub(channel).ReadRequests(request, timeout=TIMEOUT_S)
        except MeshError:
            return None
        except asyncio.CancelledError:
            if cancel_requests():
                raise
            return None  # the gateway has left, and its connection was closed


class RequestFeed:
    """Reads what has changed since its last read, of every gateway."""

    def __init__(self, requests: MeshRequests) -> None:
        self._requests = requests
        self._read: dict[str, tuple[int, str]] = {}
        """By gateway, its last change and its log."""

    async def read(self) -> list[Owned]:
        """The requests that changed, and all that run."""
        own = partial(self._changes, self._requests.gateway_id)
        others = await self._requests.others()
        answers = await asyncio.gather(*(self._ask(one) for one in others))
        own_change = self._request(self._requests.gateway_id)
        return [*own(self._requests.own(own_change)), *(one for each in answers for one in each)]

    async def _ask(self, gateway: Instance) -> list[Owned]:
        response = await self._requests.ask(gateway, self._request(gateway.instance_id))
        return [] if response is None else self._changes(gateway.instance_id, response)

    def _request(self, gateway_id: str) -> pb.ReadRequestsRequest:
        change, log_id = self._read.get(gateway_id, (0, ""))
        return pb.ReadRequestsRequest(after_change=change, log_id=log_id)

    def _changes(self, gateway_id: str, response: pb.ReadRequestsResponse) -> list[Owned]:
        self._read[gateway_id] = response.change, response.log_id
        return list(zip(response.owners, response.requests, strict=False))
