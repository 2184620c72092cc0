"""Converts Python arguments to requests of AccessService."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, TypedDict, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_shared.errors import InvalidArgument

V = TypeVar("V", bound=int)
Kind = Literal["person", "service_account"]
Role = Literal["member", "admin"]
State = Literal["active", "disabled"]
Group = Literal["key", "user", "team", "model", "hour", "day"]
SubjectKind = Literal["key", "user", "team"]
Subject = tuple[SubjectKind, str]
"""Whom a quota applies to, for example `("user", "ada")`."""

KINDS: Mapping[str, pb.UserKind.ValueType] = {
    "person": pb.USER_KIND_PERSON,
    "service_account": pb.USER_KIND_SERVICE_ACCOUNT,
}
ROLES: Mapping[str, pb.AccessRole.ValueType] = {
    "member": pb.ACCESS_ROLE_MEMBER,
    "admin": pb.ACCESS_ROLE_ADMIN,
}
STATES: Mapping[str, pb.UserState.ValueType] = {
    "active": pb.USER_STATE_ACTIVE,
    "disabled": pb.USER_STATE_DISABLED,
}
GROUPS: Mapping[str, pb.UsageGroup.ValueType] = {
    "key": pb.USAGE_GROUP_KEY,
    "user": pb.USAGE_GROUP_USER,
    "team": pb.USAGE_GROUP_TEAM,
    "model": pb.USAGE_GROUP_MODEL,
    "hour": pb.USAGE_GROUP_HOUR,
    "day": pb.USAGE_GROUP_DAY,
}


class UserChanges(TypedDict, total=False):
    """What to change of a user."""

    state: State
    role: Role
    team: str
    """Empty for no team."""
    password: str
    old_password: str
    """Required when a member changes its own password."""


class Limits(TypedDict, total=False):
    """The limits of a quota; one that is missing does not apply."""

    requests_per_minute: int
    tokens_per_minute: int
    tokens_per_day: int
    tokens_per_month: int
    concurrent_generations: int


def new_user(name: str, password: str, kind: str, role: str, team: str) -> pb.CreateUserRequest:
    """Raises: InvalidArgument for a word that is not listed above, as all functions here."""
    return pb.CreateUserRequest(
        name=name,
        password=password,
        kind=_enum(KINDS, "kind", kind),
        role=_enum(ROLES, "role", role),
        team=team,
    )


def changed_user(name: str, changes: UserChanges) -> pb.UpdateUserRequest:
    """A request that sets the given fields only."""
    request = pb.UpdateUserRequest(name=name, old_password=changes.get("old_password", ""))
    if "state" in changes:
        request.state = _enum(STATES, "state", changes["state"])
    if "role" in changes:
        request.role = _enum(ROLES, "role", changes["role"])
    if "team" in changes:
        request.team = changes["team"]
    if "password" in changes:
        request.password = changes["password"]
    return request


def new_key(
    name: str, user: str, role: str, models: Sequence[str], expires: datetime | None
) -> pb.CreateKeyRequest:
    """A time without a time zone is local, as everywhere in Python."""
    return pb.CreateKeyRequest(
        name=name,
        user=user,
        role=_enum(ROLES, "role", role),
        models=models,
        expires=_timestamp(expires),
    )


def quota_subject(subject: Subject) -> pb.QuotaSubject:
    """The wire form of a subject."""
    kind, name = subject
    if kind == "key":
        return pb.QuotaSubject(key_id=name)
    if kind == "user":
        return pb.QuotaSubject(user=name)
    if kind == "team":
        return pb.QuotaSubject(team=name)
    raise InvalidArgument(f"subject must be of a key, user or team, not {kind!r}", field="subject")


def usage_query(
    group_by: Sequence[str], start: datetime | None, end: datetime | None
) -> pb.QueryUsageRequest:
    """A query without filters."""
    request = pb.QueryUsageRequest(
        to=_timestamp(end), group_by=[_enum(GROUPS, "group_by", each) for each in group_by]
    )
    if start is not None:
        # The field has the name of a keyword.
        getattr(request, "from").CopyFrom(_timestamp(start))
    return request


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(time.astimezone(UTC))
    return timestamp


def _enum(words: Mapping[str, V], field: str, word: str) -> V:
    if word not in words:
        raise InvalidArgument(f"{field} must be {' or '.join(words)}, not {word!r}", field=field)
    return words[word]
