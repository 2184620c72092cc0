"""Policies, and the difference between two states of them; without I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from mlxmesh_access.accounts.models import Key, Role, User
from mlxmesh_access.accounts.rules import smaller
from mlxmesh_access.quotas.models import Limits, Subject

_Name = TypeVar("_Name")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPolicy:
    """What a gateway knows of a key that works."""

    key_id: str
    sha256: bytes = field(repr=False)
    user: str
    role: Role
    models: tuple[str, ...]
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPolicy:
    """What a gateway knows of an active user."""

    name: str
    role: Role
    team: str
    tokens_valid_from_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """All policies at one revision."""

    revision: int
    keys: Mapping[str, KeyPolicy] = field(default_factory=dict[str, KeyPolicy])
    users: Mapping[str, UserPolicy] = field(default_factory=dict[str, UserPolicy])
    quotas: Mapping[Subject, Limits] = field(default_factory=dict[Subject, Limits])
    jwks_json: str = '{"keys":[]}'
    authentication_required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """What is new, changed or removed since an earlier revision."""

    revision: int
    whole: bool
    keys: tuple[KeyPolicy, ...]
    removed_key_ids: tuple[str, ...]
    users: tuple[UserPolicy, ...]
    removed_users: tuple[str, ...]
    quotas: Mapping[Subject, Limits | None]
    """None for one that was removed."""
    jwks_json: str
    """Empty if unchanged."""
    authentication_required: bool


def key_policy(key: Key, user: User) -> KeyPolicy:
    """The policy of a user's key."""
    return KeyPolicy(
        key_id=key.key_id,
        sha256=key.sha256,
        user=key.user,
        role=smaller(key.role, user.role),
        models=key.models,
        expires_ms=key.expires_ms,
    )


def user_policy(user: User) -> UserPolicy:
    """The policy of an active user."""
    return UserPolicy(
        name=user.name,
        role=user.role,
        team=user.team,
        tokens_valid_from_ms=user.tokens_valid_from_ms,
    )


def whole(policies: Policies) -> PolicyChange:
    """All policies, for a gateway that knows none."""
    return _difference(Policies(revision=0, jwks_json=""), policies, is_whole=True)


def difference(before: Policies, after: Policies) -> PolicyChange:
    """What a gateway that knows the one state must learn to know the other."""
    return _difference(before, after, is_whole=False)


def _difference(before: Policies, after: Policies, *, is_whole: bool) -> PolicyChange:
    quotas: dict[Subject, Limits | None] = dict(_changed(before.quotas, after.quotas))
    quotas |= dict.fromkeys(before.quotas.keys() - after.quotas.keys())
    return PolicyChange(
        revision=after.revision,
        whole=is_whole,
        keys=tuple(_changed(before.keys, after.keys).values()),
        removed_key_ids=tuple(sorted(before.keys.keys() - after.keys.keys())),
        users=tuple(_changed(before.users, after.users).values()),
        removed_users=tuple(sorted(before.users.keys() - after.users.keys())),
        quotas=quotas,
        jwks_json="" if before.jwks_json == after.jwks_json else after.jwks_json,
        authentication_required=after.authentication_required,
    )


def _changed(before: Mapping[_Name, _Value], after: Mapping[_Name, _Value]) -> dict[_Name, _Value]:
    return {name: value for name, value in after.items() if before.get(name) != value}
