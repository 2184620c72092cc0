"""Converts the messages of HistoryService."""

from collections import Counter
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import history_pb2 as pb
from mlxmesh_model.history.periods import DAY_S, Amounts, PeriodKey, Resolution, TimeRange
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.telemetry import histograms

_DEFAULT_RANGE_S = DAY_S
_MAX_RANGE_OF_HOURS_S = 2 * DAY_S
_MAX_S = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())
_RESOLUTIONS = {
    pb.HISTORY_RESOLUTION_HOUR: Resolution.HOUR,
    pb.HISTORY_RESOLUTION_DAY: Resolution.DAY,
    pb.HISTORY_RESOLUTION_TOTAL: Resolution.TOTAL,
}


def to_range(request: pb.GetModelHistoryRequest, now_s: float) -> TimeRange:
    """Raises: InvalidArgument."""
    has = request.HasField
    end_s = _to_time(request.end_time, "end_time") if has("end_time") else now_s
    start_s = end_s - _DEFAULT_RANGE_S
    if has("start_time"):
        start_s = _to_time(request.start_time, "start_time")
    if start_s >= end_s:
        raise InvalidArgument("start_time must be before end_time", field="start_time")
    return TimeRange(start_s, end_s)


def to_resolution(request: pb.GetModelHistoryRequest, during: TimeRange) -> Resolution:
    """Raises: InvalidArgument."""
    if request.resolution == pb.HISTORY_RESOLUTION_UNSPECIFIED:
        short = during.end_s - during.start_s <= _MAX_RANGE_OF_HOURS_S
        return Resolution.HOUR if short else Resolution.DAY
    if request.resolution not in _RESOLUTIONS:
        raise InvalidArgument("resolution must be HOUR, DAY or TOTAL", field="resolution")
    return _RESOLUTIONS[request.resolution]


def from_period(key: PeriodKey, amounts: Amounts) -> pb.HistoryPeriod:
    """What a version did in a period."""
    return pb.HistoryPeriod(
        version=key.version,
        start_time=Timestamp(seconds=key.start_s),
        end_time=Timestamp(seconds=key.end_s),
        requests=amounts.requests,
        errors=amounts.errors,
        refused=amounts.refused,
        cancelled=amounts.cancelled,
        prompt_tokens=amounts.prompt_tokens,
        cached_tokens=amounts.cached_tokens,
        completion_tokens=amounts.completion_tokens,
        device_s=amounts.device_us / 1_000_000,
        cost=amounts.cost,
        ttft=_percentiles(amounts.ttft),
        tpot=_percentiles(amounts.tpot),
    )


def _percentiles(counts: Counter[int]) -> pb.DurationPercentiles:
    p50_ms, p95_ms, p99_ms = histograms.percentiles_ms(counts, (50, 95, 99))
    return pb.DurationPercentiles(count=counts.total(), p50_ms=p50_ms, p95_ms=p95_ms, p99_ms=p99_ms)


def _to_time(time: Timestamp, field: str) -> float:
    time_s = time.seconds + time.nanos / 1e9
    if not (0 <= time_s <= _MAX_S and 0 <= time.nanos < 1_000_000_000):
        raise InvalidArgument(f"{field} must be a time from 1970 to 9999", field=field)
    return time_s
