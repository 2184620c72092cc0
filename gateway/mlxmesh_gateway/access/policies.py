"""What the gateway knows of keys, users and quotas. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple


class Limit(IntEnum):
    """A limit of a quota that is spent in slices; numbered as in the contract."""

    REQUESTS_PER_MINUTE = 1
    TOKENS_PER_MINUTE = 2
    TOKENS_PER_DAY = 3
    TOKENS_PER_MONTH = 4
    CONCURRENT_GENERATIONS = 5

    @property
    def title(self) -> str:
        """As the contract names its field."""
        return self.name.lower()


class Subject(NamedTuple):
    """Whom a quota applies to."""

    kind: Literal["key", "user", "team"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key that works."""

    key_id: str
    sha256: bytes = field(repr=False)
    user: str
    is_admin: bool
    models: tuple[str, ...] = ()
    """Patterns; empty for all models."""
    expires_s: float = 0.0
    """Unix time; 0 for never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An active user."""

    name: str
    is_admin: bool
    team: str = ""
    tokens_valid_from_s: float = 0.0
    """Access tokens that were issued before are refused."""


Limits = Mapping[Limit, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """What has changed, or everything."""

    revision: int
    whole: bool = False
    keys: tuple[Key, ...] = ()
    removed_key_ids: tuple[str, ...] = ()
    users: tuple[User, ...] = ()
    removed_users: tuple[str, ...] = ()
    quotas: Mapping[Subject, Limits] = field(default_factory=dict[Subject, Limits])
    """A quota without limits was removed."""
    jwks_json: str = field(default="", repr=False)
    """Empty if unchanged."""
    authentication_required: bool = False


class Policies:
    """The newest policies."""

    def __init__(self) -> None:
        self.revision = 0
        self.known = False
        """Whether there are any: of this run or of an earlier one."""
        self.authentication_required = False
        """Stays True once it was: a service that lost its users must not open the mesh."""
        self.jwks_json = ""
        self._keys: dict[bytes, Key] = {}
        self._hashes: dict[str, bytes] = {}
        self._users: dict[str, User] = {}
        self._quotas: dict[Subject, Limits] = {}

    def key(self, sha256: bytes, now_s: float) -> Key | None:
        """The key with this hash, if it works now."""
        key = self._keys.get(sha256)
        expired = key is not None and 0 < key.expires_s <= now_s
        return None if expired else key

    def user(self, name: str) -> User | None:
        """The active user of this name."""
        return self._users.get(name)

    def limits(self, subject: Subject) -> Limits:
        """The limits of a subject; empty without a quota."""
        return self._quotas.get(subject, {})

    def apply(self, change: PolicyChange) -> None:
        """Brings these policies up to date."""
        if change.whole:
            self._clear()
        self._remove(change)
        for key in change.keys:
            self._remove_key(key.key_id)
            self._keys[key.sha256] = key
            self._hashes[key.key_id] = key.sha256
        self._users |= {user.name: user for user in change.users}
        for subject, limits in change.quotas.items():
            if limits:
                self._quotas[subject] = limits
            else:
                self._quotas.pop(subject, None)
        self.jwks_json = change.jwks_json or self.jwks_json
        self.authentication_required |= change.authentication_required
        self.revision = change.revision
        self.known = True

    def whole(self) -> PolicyChange:
        """All policies as one change."""
        return PolicyChange(
            revision=self.revision,
            whole=True,
            keys=tuple(self._keys.values()),
            users=tuple(self._users.values()),
            quotas=dict(self._quotas),
            jwks_json=self.jwks_json,
            authentication_required=self.authentication_required,
        )

    def _clear(self) -> None:
        self._keys, self._hashes, self._users, self._quotas = {}, {}, {}, {}

    def _remove(self, change: PolicyChange) -> None:
        for key_id in change.removed_key_ids:
            self._remove_key(key_id)
        for name in change.removed_users:
            self._users.pop(name, None)

    def _remove_key(self, key_id: str) -> None:
        sha256 = self._hashes.pop(key_id, None)
        if sha256 is not None:
            del self._keys[sha256]
