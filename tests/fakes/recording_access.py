"""An access service that records entries for the audit log, in memory."""

from __future__ import annotations

from typing import Any

from mlxmesh.access.v1 import policy_pb2 as pb
from mlxmesh.access.v1.policy_pb2_grpc import (
    PolicyServiceServicer,
    add_PolicyServiceServicer_to_server,
)
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.tls import ServerTls


class RecordingAccess:
    """Records each batch once, as the real one does."""

    def __init__(self, *, lost_answers: int = 0) -> None:
        """So many calls are recorded, and their answers lost."""
        self.lost_answers = lost_answers
        self.calls = 0
        self.recorded: dict[str, pb.RecordAuditEntriesRequest] = {}

    def server(self, tls: ServerTls | None = None) -> MeshServer:
        servicer = _Servicer(self)  # pyright: ignore[reportAbstractUsage] - others are not called
        return MeshServer(
            services=[(add_PolicyServiceServicer_to_server, servicer)],
            service_names=["mlxmesh.access.v1.PolicyService"],
            name="access",
            tls=tls,
        )

    def record(self, request: pb.RecordAuditEntriesRequest) -> pb.RecordAuditEntriesResponse:
        self.calls += 1
        repeated = request.batch_id in self.recorded
        self.recorded[request.batch_id] = request
        if self.lost_answers:
            self.lost_answers -= 1
            raise ServiceUnavailable("its answer is lost")
        return pb.RecordAuditEntriesResponse(repeated=repeated)


class _Servicer(PolicyServiceServicer):
    def __init__(self, access: RecordingAccess) -> None:
        self._access = access

    async def RecordAuditEntries(
        self, request: pb.RecordAuditEntriesRequest, context: Any
    ) -> pb.RecordAuditEntriesResponse:
        return self._access.record(request)
