"""The client's methods for what models have done and what that cost."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import history_pb2
from mlxmesh.model.v1.history_pb2_grpc import HistoryServiceStub
from mlxmesh_client.calls import Calls

HistoryResolution = Literal["", "hour", "day", "total"]
_RESOLUTIONS: dict[HistoryResolution, history_pb2.HistoryResolution.ValueType] = {
    "": history_pb2.HISTORY_RESOLUTION_UNSPECIFIED,
    "hour": history_pb2.HISTORY_RESOLUTION_HOUR,
    "day": history_pb2.HISTORY_RESOLUTION_DAY,
    "total": history_pb2.HISTORY_RESOLUTION_TOTAL,
}


class HistoryMethods:
    """One method per public RPC of HistoryService."""

    _calls: Calls
    _history: HistoryServiceStub

    async def get_model_history(
        self,
        model: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        resolution: HistoryResolution = "",
        timeout_s: float | None = None,
    ) -> Sequence[history_pb2.HistoryPeriod]:
        """Returns what each version did in each hour, each day, or in total.

        By default it is the last day; without a resolution, hours for up to two days and else days.
        """
        request = history_pb2.GetModelHistoryRequest(
            model=model,
            start_time=_timestamp(start),
            end_time=_timestamp(end),
            resolution=_RESOLUTIONS[resolution],
        )
        call = self._history.GetModelHistory
        return (await self._calls.unary(call, request, timeout_s, safe=True)).periods


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    time = Timestamp()
    time.FromDatetime(moment)
    return time
