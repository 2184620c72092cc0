"""Pairs and drops to the messages of ShadowService."""

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import shadow_pb2 as pb
from mlxmesh_generation.shadowing.pair import DropReason, Pair
from mlxmesh_generation.shadowing.reporter import Batch

_REASONS = {
    DropReason.NO_ROOM: pb.SHADOW_DROP_REASON_NO_ROOM,
    DropReason.FAILED: pb.SHADOW_DROP_REASON_FAILED,
    DropReason.TIMEOUT: pb.SHADOW_DROP_REASON_TIMEOUT,
    DropReason.PRIMARY_INCOMPLETE: pb.SHADOW_DROP_REASON_PRIMARY_INCOMPLETE,
    DropReason.UNSUPPORTED: pb.SHADOW_DROP_REASON_UNSUPPORTED,
}


def record_request(instance_id: str, batch: Batch) -> pb.RecordShadowPairsRequest:
    """A batch of an instance."""
    return pb.RecordShadowPairsRequest(
        shadow_id=batch.shadow_id,
        instance_id=instance_id,
        batch=batch.number,
        pairs=map(_pair, batch.pairs),
        drops={_REASONS[reason]: count for reason, count in batch.drops.items()},
    )


def _pair(pair: Pair) -> pb.ShadowPair:
    time = Timestamp()
    time.FromMilliseconds(pair.end_ms)
    return pb.ShadowPair(
        request_id=pair.request_id,
        from_version=pair.from_version,
        time=time,
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
