"""Outcomes to the messages of HistoryService."""

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import history_pb2 as pb
from mlxmesh_generation.domain.outcome import Outcome, Status
from mlxmesh_generation.reporting.reporter import Batch

_STATUSES = {
    Status.COMPLETED: pb.OUTCOME_STATUS_COMPLETED,
    Status.FAILED: pb.OUTCOME_STATUS_FAILED,
    Status.REFUSED: pb.OUTCOME_STATUS_REFUSED,
    Status.CANCELLED: pb.OUTCOME_STATUS_CANCELLED,
}


def record_request(instance_id: str, batch: Batch) -> pb.RecordOutcomesRequest:
    """A batch of an instance."""
    return pb.RecordOutcomesRequest(
        instance_id=instance_id, batch=batch.number, outcomes=map(outcome, batch.outcomes)
    )


def outcome(ended: Outcome) -> pb.Outcome:
    """How one generation ended."""
    end_time = Timestamp()
    end_time.FromMilliseconds(ended.end_ms)
    return pb.Outcome(
        request_id=ended.request_id,
        principal=ended.principal,
        model=ended.model,
        version=ended.version,
        arm=ended.assignment.arm,
        rollout_id=ended.assignment.rollout_id,
        experiment_id=ended.assignment.experiment_id,
        subject_hash=ended.assignment.subject_hash,
        status=_STATUSES[ended.status],
        error_reason=ended.error_reason,
        prompt_tokens=ended.prompt_tokens,
        cached_tokens=ended.cached_tokens,
        completion_tokens=ended.completion_tokens,
        ttft_ms=ended.ttft_ms,
        tpot_ms=ended.tpot_ms,
        duration_ms=ended.duration_ms,
        device_ms=ended.device_ms,
        schema_valid=ended.schema_valid,
        tools_valid=ended.tools_valid,
        cost=ended.cost,
        end_time=end_time,
    )
