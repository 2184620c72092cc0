"""Converts the messages of PolicyService to policies, and back."""

from __future__ import annotations

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.access.v1 import access_pb2, policy_pb2
from mlxmesh_gateway.access.policies import Key, Limit, Limits, PolicyChange, Subject, User


def policy_change(message: policy_pb2.WatchPoliciesResponse) -> PolicyChange:
    """What has changed."""
    return PolicyChange(
        revision=message.revision,
        whole=message.whole,
        keys=tuple(_key(one) for one in message.keys),
        removed_key_ids=tuple(message.removed_key_ids),
        users=tuple(_user(one) for one in message.users),
        removed_users=tuple(message.removed_users),
        quotas={subject_of(one.subject): _limits(one.limits) for one in message.quotas},
        jwks_json=message.jwks_json,
        authentication_required=message.authentication_required,
    )


def policy_message(change: PolicyChange) -> policy_pb2.WatchPoliciesResponse:
    """The message that says so."""
    return policy_pb2.WatchPoliciesResponse(
        revision=change.revision,
        whole=change.whole,
        keys=[_key_message(one) for one in change.keys],
        removed_key_ids=change.removed_key_ids,
        users=[_user_message(one) for one in change.users],
        removed_users=change.removed_users,
        quotas=[
            policy_pb2.QuotaPolicy(subject=subject_message(subject), limits=_limit_message(limits))
            for subject, limits in change.quotas.items()
        ],
        jwks_json=change.jwks_json,
        authentication_required=change.authentication_required,
    )


def to_json(change: PolicyChange) -> bytes:
    """As it is kept on disk."""
    message = policy_message(change)
    return json_format.MessageToJson(message, preserving_proto_field_name=True).encode()


def from_json(text: bytes) -> PolicyChange:
    """What `to_json` wrote. Raises: ValueError for anything else."""
    try:
        message = json_format.Parse(text, policy_pb2.WatchPoliciesResponse())
    except json_format.ParseError as error:
        raise ValueError("not policies") from error
    if not message.whole or any(len(key.sha256) != 32 for key in message.keys):
        raise ValueError("not policies")
    return policy_change(message)


def subject_of(message: access_pb2.QuotaSubject) -> Subject:
    """Whom a quota applies to."""
    match message.WhichOneof("subject"):
        case "key_id":
            return Subject("key", message.key_id)
        case "team":
            return Subject("team", message.team)
        case _:
            return Subject("user", message.user)


def subject_message(subject: Subject) -> access_pb2.QuotaSubject:
    """The message that names the subject."""
    match subject.kind:
        case "key":
            return access_pb2.QuotaSubject(key_id=subject.name)
        case "user":
            return access_pb2.QuotaSubject(user=subject.name)
        case "team":
            return access_pb2.QuotaSubject(team=subject.name)


def _limits(message: access_pb2.QuotaLimits) -> Limits:
    # Fields of the message that are set; the contract says that 0 is illegal.
    return {limit: value for limit in Limit if (value := getattr(message, limit.title))}


def _limit_message(limits: Limits) -> access_pb2.QuotaLimits:
    message = access_pb2.QuotaLimits()
    for limit, value in limits.items():
        setattr(message, limit.title, value)
    return message


def _key(message: policy_pb2.KeyPolicy) -> Key:
    return Key(
        key_id=message.key_id,
        sha256=message.sha256,
        user=message.user,
        is_admin=message.role == access_pb2.ACCESS_ROLE_ADMIN,
        models=tuple(message.models),
        expires_s=_seconds(message.expires) if message.HasField("expires") else 0.0,
    )


def _key_message(key: Key) -> policy_pb2.KeyPolicy:
    return policy_pb2.KeyPolicy(
        key_id=key.key_id,
        sha256=key.sha256,
        user=key.user,
        role=_role(key.is_admin),
        models=key.models,
        expires=timestamp(key.expires_s) if key.expires_s else None,
    )


def _user(message: policy_pb2.UserPolicy) -> User:
    has_start = message.HasField("tokens_valid_from")
    return User(
        name=message.name,
        is_admin=message.role == access_pb2.ACCESS_ROLE_ADMIN,
        team=message.team,
        tokens_valid_from_s=_seconds(message.tokens_valid_from) if has_start else 0.0,
    )


def _user_message(user: User) -> policy_pb2.UserPolicy:
    start_s = user.tokens_valid_from_s
    return policy_pb2.UserPolicy(
        name=user.name,
        role=_role(user.is_admin),
        team=user.team,
        tokens_valid_from=timestamp(start_s) if start_s else None,
    )


def _role(is_admin: bool) -> access_pb2.AccessRole.ValueType:
    return access_pb2.ACCESS_ROLE_ADMIN if is_admin else access_pb2.ACCESS_ROLE_MEMBER


def _seconds(time: Timestamp) -> float:
    return time.ToNanoseconds() / 1e9


def timestamp(unix_s: float) -> Timestamp:
    """A Unix time as a message."""
    result = Timestamp()
    result.FromNanoseconds(round(unix_s * 1e9))
    return result
