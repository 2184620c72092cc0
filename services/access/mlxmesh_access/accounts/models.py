"""Users and API keys."""

from dataclasses import dataclass, field
from enum import StrEnum


class UserKind(StrEnum):
    """A person may sign in; a service account has keys only."""

    PERSON = "person"
    SERVICE_ACCOUNT = "service_account"


class UserState(StrEnum):
    """Whether a user may use the mesh."""

    PENDING = "pending"
    ACTIVE = "active"
    DISABLED = "disabled"


class Role(StrEnum):
    """What a user or a key may do."""

    MEMBER = "member"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user or a service account."""

    name: str
    kind: UserKind = UserKind.PERSON
    state: UserState = UserState.ACTIVE
    role: Role = Role.MEMBER
    team: str = ""
    password_hash: str = field(default="", repr=False)
    """Empty for a user without a password."""
    oidc_issuer: str = ""
    oidc_subject: str = ""
    created_ms: int = 0
    last_sign_in_ms: int = 0
    tokens_valid_from_ms: int = 0
    """Access tokens that were issued before are refused; 0 for none."""

    @property
    def is_active_admin(self) -> bool:
        """Whether it may administer the mesh."""
        return self.role is Role.ADMIN and self.state is UserState.ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key, without its text."""

    key_id: str
    name: str
    prefix: str
    """The first characters of its text, which no other key has."""
    sha256: bytes = field(repr=False)
    user: str
    role: Role = Role.MEMBER
    models: tuple[str, ...] = ()
    """Names or patterns with *; empty for all models."""
    created_ms: int = 0
    expires_ms: int = 0
    """0 for never."""
    last_used_ms: int = 0
    revoked_ms: int = 0
    """0 while it is not revoked."""

    def works(self, now_ms: int) -> bool:
        """Whether it is neither revoked nor expired; its user may still not be active."""
        return not self.revoked_ms and (not self.expires_ms or now_ms < self.expires_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserChange:
    """What to change of a user; None for what stays."""

    state: UserState | None = None
    role: Role | None = None
    team: str | None = None
    password: str | None = field(default=None, repr=False)

    def only_password(self) -> bool:
        """Whether it changes nothing else."""
        return self.state is None and self.role is None and self.team is None
