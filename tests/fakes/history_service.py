"""A HistoryService that keeps what it is sent."""

from typing import Any

from mlxmesh.model.v1 import history_pb2 as pb
from mlxmesh.model.v1.history_pb2_grpc import HistoryServiceServicer
from mlxmesh_shared.errors import MeshError, MethodNotFound


class FakeHistoryService(HistoryServiceServicer):
    """Outcomes only."""

    def __init__(self) -> None:
        self.requests: list[pb.RecordOutcomesRequest] = []
        self.error: MeshError | None = None

    @property
    def outcomes(self) -> list[pb.Outcome]:
        """Those of all batches."""
        return [outcome for request in self.requests for outcome in request.outcomes]

    async def RecordOutcomes(
        self, request: pb.RecordOutcomesRequest, context: Any
    ) -> pb.RecordOutcomesResponse:
        if self.error is not None:
            raise self.error
        self.requests.append(request)
        return pb.RecordOutcomesResponse()

    async def GetModelHistory(self, request: Any, context: Any) -> Any:
        raise MethodNotFound("this fake has no such method")
