"""Refresh tokens: made, parsed, and judged against what is stored of their session.

A token names its session and contains two secrets. The first stays the same for the whole session
and proves that the token was issued for it; the second is new in each token. So a token that was
used before differs from a guess, and two hashes a session are all that is stored.

Source: RFC 9700, section 4.14 (rotation, detection of reuse).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, replace
from enum import Enum, auto

_FORM = re.compile(r"mlxr_(s_[0-9a-f]{24})\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """A parsed refresh token."""

    session_id: str
    family: str
    secret: str

    @property
    def text(self) -> str:
        """What the client gets. A secret."""
        return f"mlxr_{self.session_id}.{self.family}.{self.secret}"

    @property
    def family_sha256(self) -> bytes:
        """What is stored of the secret of the session."""
        return hashlib.sha256(self.family.encode()).digest()

    @property
    def secret_sha256(self) -> bytes:
        """What is stored of the secret of this token."""
        return hashlib.sha256(self.secret.encode()).digest()

    def next(self) -> RefreshToken:
        """The token of the same session that replaces this one."""
        return replace(self, secret=secrets.token_urlsafe(32))

    def __repr__(self) -> str:
        return f"RefreshToken({self.session_id})"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """A session as it is stored. Times are Unix times in milliseconds."""

    session_id: str
    user: str
    family_sha256: bytes
    secret_sha256: bytes
    created_ms: int
    refreshed_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """How long a session lasts at most, and how long without being refreshed."""

    lifetime_s: float
    idle_s: float

    def expires_ms(self, session: StoredSession) -> int:
        """When its refresh token expires."""
        lifetime_ends_ms = session.created_ms + round(self.lifetime_s * 1000)
        return min(lifetime_ends_ms, session.refreshed_ms + round(self.idle_s * 1000))


class Judgement(Enum):
    """What a presented refresh token is."""

    UNKNOWN = auto()
    EXPIRED = auto()
    REUSED = auto()
    VALID = auto()


def new_token() -> RefreshToken:
    """The first token of a new session."""
    return RefreshToken(
        session_id=f"s_{secrets.token_hex(12)}",
        family=secrets.token_urlsafe(32),
        secret=secrets.token_urlsafe(32),
    )


def parse(text: str) -> RefreshToken | None:
    """The token with this text; None if no token has that form."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    session_id, family, secret = found.groups()
    return RefreshToken(session_id=session_id, family=family, secret=secret)


def judge(
    token: RefreshToken, stored: StoredSession | None, limits: SessionLimits, now_ms: int
) -> Judgement:
    """What a token is, by what is stored of the session that it names."""
    if stored is None or not hmac.compare_digest(token.family_sha256, stored.family_sha256):
        return Judgement.UNKNOWN
    if now_ms >= limits.expires_ms(stored):
        return Judgement.EXPIRED
    if not hmac.compare_digest(token.secret_sha256, stored.secret_sha256):
        return Judgement.REUSED
    return Judgement.VALID
