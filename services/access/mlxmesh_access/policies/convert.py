"""Converts policies and slices to PolicyService's messages and back."""

from mlxmesh.access.v1 import access_pb2
from mlxmesh.access.v1 import policy_pb2 as pb
from mlxmesh_access.convert import from_subject, to_limits, to_role, to_subject
from mlxmesh_access.policies.models import KeyPolicy, PolicyChange, UserPolicy
from mlxmesh_access.quotas.models import LimitId, LimitKind, Limits, Subject
from mlxmesh_access.quotas.slices import Grant, Request
from mlxmesh_shared.timestamps import to_time

_KINDS = {
    pb.QUOTA_LIMIT_REQUESTS_PER_MINUTE: LimitKind.REQUESTS_PER_MINUTE,
    pb.QUOTA_LIMIT_TOKENS_PER_MINUTE: LimitKind.TOKENS_PER_MINUTE,
    pb.QUOTA_LIMIT_TOKENS_PER_DAY: LimitKind.TOKENS_PER_DAY,
    pb.QUOTA_LIMIT_TOKENS_PER_MONTH: LimitKind.TOKENS_PER_MONTH,
    pb.QUOTA_LIMIT_CONCURRENT_GENERATIONS: LimitKind.CONCURRENT_GENERATIONS,
}


def to_change(change: PolicyChange) -> pb.WatchPoliciesResponse:
    """A change of policies."""
    return pb.WatchPoliciesResponse(
        revision=change.revision,
        whole=change.whole,
        keys=[_to_key(key) for key in change.keys],
        removed_key_ids=change.removed_key_ids,
        users=[_to_user(user) for user in change.users],
        removed_users=change.removed_users,
        quotas=[_to_quota(subject, limits) for subject, limits in change.quotas.items()],
        jwks_json=change.jwks_json,
        authentication_required=change.authentication_required,
    )


def from_slice_request(
    request: pb.SliceRequest, gateway_id: str, field: str
) -> tuple[LimitId, Request]:
    """What a gateway reports and wants of one limit. Raises: InvalidArgument."""
    limit_id = LimitId(from_subject(request.subject, f"{field}.subject"), _KINDS[request.limit])
    return limit_id, Request(gateway_id=gateway_id, spent=request.spent, wanted=request.wanted)


def to_grant(grant: Grant) -> pb.SliceGrant:
    """A leased slice."""
    return pb.SliceGrant(
        granted=grant.granted, valid_ms=grant.valid_ms, retry_after_ms=grant.retry_after_ms
    )


def _to_key(key: KeyPolicy) -> pb.KeyPolicy:
    return pb.KeyPolicy(
        key_id=key.key_id,
        sha256=key.sha256,
        user=key.user,
        role=to_role(key.role),
        models=key.models,
        expires=to_time(key.expires_ms),
    )


def _to_user(user: UserPolicy) -> pb.UserPolicy:
    return pb.UserPolicy(
        name=user.name,
        role=to_role(user.role),
        team=user.team,
        tokens_valid_from=to_time(user.tokens_valid_from_ms),
    )


def _to_quota(subject: Subject, limits: Limits | None) -> pb.QuotaPolicy:
    shown: access_pb2.QuotaLimits | None = to_limits(limits) if limits else None
    return pb.QuotaPolicy(subject=to_subject(subject), limits=shown)
