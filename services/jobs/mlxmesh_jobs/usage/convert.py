"""Converts usage and quotas to PolicyService's messages and back."""

from collections.abc import Mapping, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.access.v1 import access_pb2
from mlxmesh.access.v1 import policy_pb2 as pb
from mlxmesh_jobs.domain.ports import UsageBatch
from mlxmesh_jobs.usage.ledger import Amounts, Spent, Subject, UsageKey, sums
from mlxmesh_shared.timestamps import to_time

_TOKEN_LIMITS = (
    pb.QUOTA_LIMIT_TOKENS_PER_MINUTE,
    pb.QUOTA_LIMIT_TOKENS_PER_DAY,
    pb.QUOTA_LIMIT_TOKENS_PER_MONTH,
)
MAX_SUBJECTS = 1024 // len(_TOKEN_LIMITS)
"""Of one request."""


def to_report(batch: UsageBatch) -> pb.ReportUsageRequest:
    """The request that reports a batch."""
    records = [_record(key, amounts) for key, amounts in sums(batch.entries).items()]
    return pb.ReportUsageRequest(batch_id=batch.batch_id, records=records)


def _record(key: UsageKey, amounts: Amounts) -> pb.UsageRecord:
    return pb.UsageRecord(
        principal=key.principal,
        user=key.user,
        key_id=key.key_id,
        team=key.team,
        model=key.model,
        model_version=key.model_version,
        # At the beginning of 1970 too, where to_time would leave it unset.
        hour=to_time(key.hour_ms) or Timestamp(),
        amounts=access_pb2.UsageAmounts(
            requests=amounts.requests,
            errors=amounts.errors,
            prompt_tokens=amounts.prompt_tokens,
            cached_tokens=amounts.cached_tokens,
            completion_tokens=amounts.completion_tokens,
            device_s=amounts.device_ms / 1000,
        ),
        last_used=to_time(amounts.last_used_ms) if key.key_id else None,
    )


def to_lease(instance_id: str, spent: Mapping[Subject, Spent]) -> pb.LeaseQuotasRequest:
    """Reports tokens, and asks whether there are more, for each limit of each subject."""
    slices = [
        pb.SliceRequest(subject=_subject(subject), limit=limit, spent=each.tokens, wanted=1)
        for subject, each in spent.items()
        for limit in _TOKEN_LIMITS
    ]
    return pb.LeaseQuotasRequest(gateway_id=instance_id, slices=slices)


def used_up(response: pb.LeaseQuotasResponse, subjects: Sequence[Subject]) -> dict[Subject, int]:
    """In how many milliseconds each subject may use tokens again; those that may are left out."""
    found: dict[Subject, int] = {}
    for index, grant in enumerate(response.grants):
        subject = subjects[index // len(_TOKEN_LIMITS)]
        if not grant.granted:
            found[subject] = max(found.get(subject, 0), grant.retry_after_ms)
    return found


def _subject(subject: Subject) -> access_pb2.QuotaSubject:
    match subject.kind:
        case "key":
            return access_pb2.QuotaSubject(key_id=subject.name)
        case "user":
            return access_pb2.QuotaSubject(user=subject.name)
        case _:
            return access_pb2.QuotaSubject(team=subject.name)
