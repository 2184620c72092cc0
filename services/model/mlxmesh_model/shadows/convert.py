"""Shadow messages to domain objects, and back."""

from collections.abc import Mapping
from datetime import UTC, datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import shadow_pb2 as pb
from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_model.shadows.shadow import Batch, DropReason, Pair, Plan, Run
from mlxmesh_model.shadows.store import Report
from mlxmesh_model.shadows.tally import Metric, Paired, Tally, median_first_difference
from mlxmesh_shared.errors import InvalidArgument

_REASONS = {
    pb.SHADOW_DROP_REASON_NO_ROOM: DropReason.NO_ROOM,
    pb.SHADOW_DROP_REASON_FAILED: DropReason.FAILED,
    pb.SHADOW_DROP_REASON_TIMEOUT: DropReason.TIMEOUT,
    pb.SHADOW_DROP_REASON_PRIMARY_INCOMPLETE: DropReason.PRIMARY_INCOMPLETE,
    pb.SHADOW_DROP_REASON_UNSUPPORTED: DropReason.UNSUPPORTED,
}
_TO_REASON = {reason: number for number, reason in _REASONS.items()}
_DEFAULT_PERCENT = 10.0

# Requests.


def to_plan(request: pb.StartShadowRequest) -> Plan:
    """What to repeat."""
    percent = request.percent if request.HasField("percent") else _DEFAULT_PERCENT
    return Plan(request.name, request.to_version, request.from_version, percent)


def to_batch(request: pb.RecordShadowPairsRequest) -> Batch:
    """Raises: InvalidArgument for an unknown reason."""
    pairs = [_to_pair(message) for message in request.pairs]
    return Batch(request.instance_id, request.batch, pairs, _to_drops(request.drops))


def _to_drops(drops: Mapping[int, int]) -> dict[DropReason, int]:
    for number in drops:
        if number not in _REASONS:
            raise InvalidArgument(f"there is no reason {number}", field=f"drops[{number}]")
    return {_REASONS[pb.ShadowDropReason.ValueType(one)]: count for one, count in drops.items()}


def _to_pair(message: pb.ShadowPair) -> Pair:
    return Pair(
        request_id=message.request_id,
        from_version=message.from_version,
        time=message.time.ToDatetime(UTC) if message.HasField("time") else datetime.now(UTC),
        equal=message.equal,
        first_difference=message.first_difference,
        edit_distance=message.edit_distance,
        primary_tokens=message.primary_tokens,
        shadow_tokens=message.shadow_tokens,
        primary_ttft_ms=message.primary_ttft_ms,
        shadow_ttft_ms=message.shadow_ttft_ms,
        primary_tokens_per_second=message.primary_tokens_per_second,
        shadow_tokens_per_second=message.shadow_tokens_per_second,
    )


# Responses.


def to_run(run: Run) -> pb.ShadowRun:
    """A shadow."""
    plan = run.plan
    return pb.ShadowRun(
        shadow_id=run.shadow_id,
        model=plan.model,
        from_version=plan.from_version,
        to_version=plan.to_version,
        percent=plan.percent,
        create_time=_time(run.created_at),
        end_time=None if run.ended_at is None else _time(run.ended_at),
    )


def to_report(report: Report, *, pairs: int) -> pb.GetShadowReportResponse:
    """What a shadow found, with so many of its latest pairs."""
    tally = report.tally
    return pb.GetShadowReportResponse(
        shadow=to_run(report.run),
        compared=tally.compared,
        equal=tally.equal,
        drops={_TO_REASON[reason]: count for reason, count in tally.drops.items()},
        mean_edit_distance=tally.mean_edit_distance,
        median_first_difference=median_first_difference(report.pairs),
        differences=[
            _difference(metric, tally.paired[metric]) for metric in Metric if metric in tally.paired
        ],
        pairs=map(_pair, report.pairs[:pairs]),
    )


def _difference(metric: Metric, paired: Paired) -> pb.PairedDifference:
    interval = paired.interval
    return pb.PairedDifference(
        metric=metric.value,
        primary_mean=paired.primary_mean,
        shadow_mean=paired.shadow_mean,
        mean_difference=interval.mean,
        lower=interval.lower,
        upper=interval.upper,
    )


def _pair(pair: Pair) -> pb.ShadowPair:
    return pb.ShadowPair(
        request_id=pair.request_id,
        from_version=pair.from_version,
        time=_time(pair.time),
        equal=pair.equal,
        first_difference=pair.first_difference,
        edit_distance=pair.edit_distance,
        primary_tokens=pair.primary_tokens,
        shadow_tokens=pair.shadow_tokens,
        primary_ttft_ms=pair.primary_ttft_ms,
        shadow_ttft_ms=pair.shadow_ttft_ms,
        primary_tokens_per_second=pair.primary_tokens_per_second,
        shadow_tokens_per_second=pair.shadow_tokens_per_second,
    )


def _time(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


# Events.


def to_event(run: Run, tally: Tally) -> Message:
    """That a shadow was started, or has ended."""
    plan = run.plan
    if run.ended_at is None:
        return events.ShadowStarted(
            shadow_id=run.shadow_id,
            model=plan.model,
            from_version=plan.from_version,
            to_version=plan.to_version,
            percent=plan.percent,
        )
    return events.ShadowStopped(
        shadow_id=run.shadow_id,
        model=plan.model,
        to_version=plan.to_version,
        compared=tally.compared,
        equal=tally.equal,
        dropped=sum(tally.drops.values()),
    )
