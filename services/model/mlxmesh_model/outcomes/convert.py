"""Outcome messages to domain objects."""

from datetime import UTC, datetime

from mlxmesh.model.v1 import history_pb2
from mlxmesh_model.outcomes.outcome import Outcome, Status

_STATUSES = {
    history_pb2.OUTCOME_STATUS_COMPLETED: Status.COMPLETED,
    history_pb2.OUTCOME_STATUS_FAILED: Status.FAILED,
    history_pb2.OUTCOME_STATUS_REFUSED: Status.REFUSED,
    history_pb2.OUTCOME_STATUS_CANCELLED: Status.CANCELLED,
}


def to_outcome(message: history_pb2.Outcome) -> Outcome:
    """An outcome; one without a time ended now, one of an unknown status counts as completed."""
    timed, has = message.HasField("end_time"), message.HasField
    ended = message.end_time.ToDatetime(UTC) if timed else datetime.now(UTC)
    return Outcome(
        request_id=message.request_id,
        principal=message.principal,
        model=message.model,
        version=message.version,
        status=_STATUSES.get(message.status, Status.COMPLETED),
        end_time=ended,
        arm=message.arm,
        rollout_id=message.rollout_id,
        experiment_id=message.experiment_id,
        subject_hash=message.subject_hash,
        error_reason=message.error_reason,
        prompt_tokens=message.prompt_tokens,
        cached_tokens=message.cached_tokens,
        completion_tokens=message.completion_tokens,
        ttft_ms=message.ttft_ms if has("ttft_ms") else None,
        tpot_ms=message.tpot_ms if has("tpot_ms") else None,
        duration_ms=message.duration_ms,
        device_ms=message.device_ms,
        schema_valid=message.schema_valid if has("schema_valid") else None,
        tools_valid=message.tools_valid if has("tools_valid") else None,
        cost=message.cost,
    )
