"""Converts users, keys, quotas and audit entries to AccessService's messages and back."""

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import policy_pb2
from mlxmesh_access.accounts.keys import NewKey
from mlxmesh_access.accounts.models import Key, Role, User, UserChange, UserKind, UserState
from mlxmesh_access.audit_log import AuditEntry
from mlxmesh_access.quotas.models import Limits, Quota, Subject, SubjectKind
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.timestamps import from_time, to_time

_STATES = {
    UserState.PENDING: pb.USER_STATE_PENDING,
    UserState.ACTIVE: pb.USER_STATE_ACTIVE,
    UserState.DISABLED: pb.USER_STATE_DISABLED,
}
_ROLES = {Role.MEMBER: pb.ACCESS_ROLE_MEMBER, Role.ADMIN: pb.ACCESS_ROLE_ADMIN}
_KINDS = {
    UserKind.PERSON: pb.USER_KIND_PERSON,
    UserKind.SERVICE_ACCOUNT: pb.USER_KIND_SERVICE_ACCOUNT,
}
_STATE_OF = {number: state for state, number in _STATES.items()}
_ROLE_OF = {number: role for role, number in _ROLES.items()}
_KIND_OF = {number: kind for kind, number in _KINDS.items()}


def to_role(role: Role) -> pb.AccessRole.ValueType:
    """A role."""
    return _ROLES[role]


def to_user(user: User) -> pb.User:
    """A user, without its password's hash."""
    return pb.User(
        name=user.name,
        kind=_KINDS[user.kind],
        state=_STATES[user.state],
        role=_ROLES[user.role],
        team=user.team,
        created=to_time(user.created_ms),
        last_sign_in=to_time(user.last_sign_in_ms),
        oidc_issuer=user.oidc_issuer,
    )


def from_new_user(request: pb.CreateUserRequest) -> User:
    """The user to create, still without a password."""
    return User(
        name=request.name,
        kind=_KIND_OF.get(request.kind, UserKind.PERSON),
        role=_ROLE_OF.get(request.role, Role.MEMBER),
        team=request.team,
    )


def from_user_change(request: pb.UpdateUserRequest) -> UserChange:
    """What to change of a user. Raises: InvalidArgument."""
    if request.HasField("state") and request.state not in _STATE_OF:
        raise InvalidArgument("state can be active or disabled", field="state")
    if request.HasField("role") and request.role not in _ROLE_OF:
        raise InvalidArgument("role can be member or admin", field="role")
    return UserChange(
        state=_STATE_OF[request.state] if request.HasField("state") else None,
        role=_ROLE_OF[request.role] if request.HasField("role") else None,
        team=request.team if request.HasField("team") else None,
        password=request.password if request.HasField("password") else None,
    )


def to_key(key: Key) -> pb.ApiKey:
    """A key, without its text."""
    return pb.ApiKey(
        key_id=key.key_id,
        name=key.name,
        prefix=key.prefix,
        user=key.user,
        role=_ROLES[key.role],
        models=key.models,
        created=to_time(key.created_ms),
        expires=to_time(key.expires_ms),
        last_used=to_time(key.last_used_ms),
        revoked=to_time(key.revoked_ms),
    )


def from_new_key(request: pb.CreateKeyRequest) -> NewKey:
    """The key to create. Raises: InvalidArgument."""
    return NewKey(
        name=request.name,
        user=request.user,
        role=_ROLE_OF.get(request.role, Role.MEMBER),
        models=tuple(request.models),
        expires_ms=from_time(request.expires, "expires") if request.HasField("expires") else 0,
    )


def to_subject(subject: Subject) -> pb.QuotaSubject:
    """Whom a quota applies to."""
    match subject.kind:
        case SubjectKind.KEY:
            return pb.QuotaSubject(key_id=subject.name)
        case SubjectKind.USER:
            return pb.QuotaSubject(user=subject.name)
        case SubjectKind.TEAM:
            return pb.QuotaSubject(team=subject.name)


def from_subject(subject: pb.QuotaSubject, field: str = "subject") -> Subject:
    """Whom a quota applies to. Raises: InvalidArgument for an empty name."""
    match subject.WhichOneof("subject"):
        case "key_id":
            found = Subject(SubjectKind.KEY, subject.key_id)
        case "user":
            found = Subject(SubjectKind.USER, subject.user)
        case "team":
            found = Subject(SubjectKind.TEAM, subject.team)
        case _:
            raise InvalidArgument(f"{field} must name a key, a user or a team", field=field)
    if not found.name:
        raise InvalidArgument(f"{field} must name a key, a user or a team", field=field)
    return found


def to_limits(limits: Limits) -> pb.QuotaLimits:
    """Limits; those that are not set stay unset."""
    return pb.QuotaLimits(
        requests_per_minute=limits.requests_per_minute or None,
        tokens_per_minute=limits.tokens_per_minute or None,
        tokens_per_day=limits.tokens_per_day or None,
        concurrent_generations=limits.concurrent_generations or None,
        tokens_per_month=limits.tokens_per_month or None,
    )


def from_limits(limits: pb.QuotaLimits) -> Limits:
    """Limits. Raises: InvalidArgument if there is none."""
    found = Limits(
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        tokens_per_day=limits.tokens_per_day,
        concurrent_generations=limits.concurrent_generations,
        tokens_per_month=limits.tokens_per_month,
    )
    if not found:
        raise InvalidArgument("limits must have at least one limit", field="limits")
    return found


def to_quota(quota: Quota) -> pb.Quota:
    """A quota, and what is used of it."""
    used = pb.QuotaUse(
        requests_this_minute=quota.used.requests_per_minute,
        tokens_this_minute=quota.used.tokens_per_minute,
        tokens_this_day=quota.used.tokens_per_day,
        tokens_this_month=quota.used.tokens_per_month,
    )
    return pb.Quota(subject=to_subject(quota.subject), limits=to_limits(quota.limits), used=used)


def to_audit_entry(entry: AuditEntry) -> pb.AuditEntry:
    """An entry of the audit log."""
    return pb.AuditEntry(
        time=to_time(entry.time_ms),
        actor=entry.actor,
        action=entry.action,
        target=entry.target,
        details=entry.details,
    )


def from_audit_report(report: policy_pb2.AuditReport, field: str) -> AuditEntry:
    """An entry of another service, which gets its number when it is stored.

    Raises: InvalidArgument for an illegal time, with the field's path.
    """
    return AuditEntry(
        number=0,
        time_ms=from_time(report.time, field),
        actor=report.actor,
        action=report.action,
        target=report.target,
        details=report.details,
    )
