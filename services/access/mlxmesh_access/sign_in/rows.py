"""Sessions, signing keys and pending sign-ins in the database, in their caller's transaction."""

from __future__ import annotations

from dataclasses import astuple

from mlxmesh_access.sign_in.refresh_tokens import StoredSession
from mlxmesh_access.sign_in.signing_keys import SigningKey
from mlxmesh_shared.sql.database import Row, Session

_KEY_COLUMNS = (
    "key_id",
    "public_jwk",
    "encrypted_private_key",
    "created_ms",
    "signs_until_ms",
    "expires_ms",
)
_ADD_KEY = "INSERT INTO signing_keys VALUES ($1, $2, $3, $4, $5, $6)"
_ADD_SESSION = (
    "INSERT INTO sessions (session_id, user_name, family_sha256, secret_sha256, created_ms,"
    " refreshed_ms, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)"
)
_REFRESH_SESSION = (
    "UPDATE sessions SET secret_sha256 = $2, refreshed_ms = $3, expires_ms = $4"
    " WHERE session_id = $1"
)
_KEEP_NEWEST = (
    "DELETE FROM sessions WHERE user_name = $1 AND session_id NOT IN (SELECT session_id"
    " FROM sessions WHERE user_name = $1 ORDER BY refreshed_ms DESC, session_id LIMIT $2)"
)
_SIGNED_IN = "UPDATE users SET last_sign_in_ms = $2, password_hash = $3 WHERE name = $1"
_ADD_PENDING = (
    "INSERT INTO oidc_states (state_sha256, encrypted_secrets, redirect_uri, expires_ms)"
    " VALUES ($1, $2, $3, $4)"
)
_TAKE_PENDING = (
    "DELETE FROM oidc_states WHERE state_sha256 = $1"
    " RETURNING encrypted_secrets, redirect_uri, expires_ms"
)


async def signing_keys(session: Session) -> list[SigningKey]:
    """All keys whose tokens may still be valid."""
    rows = await session.fetch("SELECT * FROM signing_keys")
    return [SigningKey(**{column: row[column] for column in _KEY_COLUMNS}) for row in rows]


async def add_signing_key(session: Session, key: SigningKey) -> None:
    """Stores a key, and removes those whose tokens have all expired."""
    await session.fetch("DELETE FROM signing_keys WHERE expires_ms <= $1", key.created_ms)
    await session.fetch(_ADD_KEY, *astuple(key))


async def find_session(session: Session, session_id: str) -> StoredSession | None:
    """A session by its id."""
    rows = await session.fetch("SELECT * FROM sessions WHERE session_id = $1", session_id)
    return _to_session(rows[0]) if rows else None


def _to_session(row: Row) -> StoredSession:
    return StoredSession(
        session_id=row["session_id"],
        user=row["user_name"],
        family_sha256=bytes(row["family_sha256"]),
        secret_sha256=bytes(row["secret_sha256"]),
        created_ms=row["created_ms"],
        refreshed_ms=row["refreshed_ms"],
    )


async def add_session(
    session: Session, stored: StoredSession, expires_ms: int, *, max_sessions: int
) -> None:
    """Stores a session; removes expired ones, and the user's oldest beyond a number."""
    await session.fetch("DELETE FROM sessions WHERE expires_ms <= $1", stored.created_ms)
    await session.fetch(_KEEP_NEWEST, stored.user, max_sessions - 1)
    await session.fetch(_ADD_SESSION, *astuple(stored), expires_ms)


async def refresh_session(session: Session, stored: StoredSession, expires_ms: int) -> None:
    """Replaces the token of a session."""
    values = (stored.session_id, stored.secret_sha256, stored.refreshed_ms, expires_ms)
    await session.fetch(_REFRESH_SESSION, *values)


async def end_session(session: Session, session_id: str) -> None:
    """Removes a session."""
    await session.fetch("DELETE FROM sessions WHERE session_id = $1", session_id)


async def signed_in(session: Session, user: str, now_ms: int, password_hash: str) -> None:
    """Notes that a user has signed in, and the hash of its password, which may be a new one."""
    await session.fetch(_SIGNED_IN, user, now_ms, password_hash)


async def add_pending(
    session: Session, *, state_sha256: bytes, encrypted: bytes, redirect_uri: str, expires_ms: int
) -> None:
    """Stores a sign-in that has begun at an issuer."""
    await session.fetch(_ADD_PENDING, state_sha256, encrypted, redirect_uri, expires_ms)


async def count_pending(session: Session, now_ms: int) -> int:
    """How many sign-ins have begun at an issuer and not ended; removes those that expired."""
    await session.fetch("DELETE FROM oidc_states WHERE expires_ms <= $1", now_ms)
    [row] = await session.fetch("SELECT count(*) AS found FROM oidc_states")
    return row["found"]


async def is_pending(session: Session, state_sha256: bytes) -> bool:
    """Whether there is a sign-in with this state, expired or not."""
    find = "SELECT 1 FROM oidc_states WHERE state_sha256 = $1"
    return bool(await session.fetch(find, state_sha256))


async def take_pending(
    session: Session, state_sha256: bytes, now_ms: int
) -> tuple[bytes, str] | None:
    """The encrypted secrets and the redirect URI of a sign-in, once; None if it expired."""
    rows = await session.fetch(_TAKE_PENDING, state_sha256)
    if not rows or rows[0]["expires_ms"] <= now_ms:
        return None
    return bytes(rows[0]["encrypted_secrets"]), rows[0]["redirect_uri"]
