"""HistoryService: each method checks, calls and replies."""

import time
from collections.abc import Callable
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.model.v1 import history_pb2 as pb
from mlxmesh.model.v1 import history_pb2_grpc
from mlxmesh_model.history import convert
from mlxmesh_model.history.history import History
from mlxmesh_model.outcomes.convert import to_outcome
from mlxmesh_model.outcomes.recorder import Recorder
from mlxmesh_shared.reference import ModelReference

_Context = ServicerContext[Any, Any]


class HistoryServicer(history_pb2_grpc.HistoryServiceServicer):
    """Records outcomes and returns their sums; the contract documents each method."""

    def __init__(
        self, recorder: Recorder, history: History, *, clock: Callable[[], float] = time.time
    ) -> None:
        """clock: Unix time in seconds."""
        self._recorder = recorder
        self._history = history
        self._clock = clock

    async def RecordOutcomes(
        self, request: pb.RecordOutcomesRequest, context: _Context
    ) -> pb.RecordOutcomesResponse:
        outcomes = [to_outcome(each) for each in request.outcomes]
        await self._recorder.record(request.instance_id, request.batch, outcomes)
        return pb.RecordOutcomesResponse()

    async def GetModelHistory(
        self, request: pb.GetModelHistoryRequest, context: _Context
    ) -> pb.GetModelHistoryResponse:
        during = convert.to_range(request, self._clock())
        resolution = convert.to_resolution(request, during)
        found = await self._history.of(ModelReference.parse(request.model), resolution, during)
        return pb.GetModelHistoryResponse(
            periods=[convert.from_period(key, amounts) for key, amounts in found]
        )
