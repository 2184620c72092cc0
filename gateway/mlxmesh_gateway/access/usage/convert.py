"""Converts usage to the messages of PolicyService."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from mlxmesh.access.v1 import access_pb2
from mlxmesh.access.v1.policy_pb2 import ReportUsageRequest, UsageRecord
from mlxmesh_gateway.access.convert import timestamp
from mlxmesh_gateway.access.usage.ledger import Amounts, Batch, UsageKey


def report(batch: Batch) -> bytes:
    """The encoded request that reports a batch."""
    records = [_record(key, amounts) for key, amounts in batch.records.items()]
    return ReportUsageRequest(batch_id=batch.batch_id, records=records).SerializeToString()


def batch_id_of(encoded: bytes) -> str:
    """The id of an encoded batch. Raises: ValueError for anything else."""
    try:
        batch_id = ReportUsageRequest.FromString(encoded).batch_id
    except DecodeError as error:
        raise ValueError("not a batch of usage") from error
    if not batch_id:
        raise ValueError("not a batch of usage")
    return batch_id


def _record(key: UsageKey, amounts: Amounts) -> UsageRecord:
    return UsageRecord(
        principal=key.principal,
        user=key.user,
        key_id=key.key_id,
        team=key.team,
        model=key.model,
        model_version=key.model_version,
        hour=timestamp(key.hour_s),
        amounts=access_pb2.UsageAmounts(
            requests=amounts.requests,
            errors=amounts.errors,
            prompt_tokens=amounts.prompt_tokens,
            cached_tokens=amounts.cached_tokens,
            completion_tokens=amounts.completion_tokens,
            device_s=amounts.device_ms / 1000,
        ),
        last_used=timestamp(amounts.last_used_s) if key.key_id else None,
    )
