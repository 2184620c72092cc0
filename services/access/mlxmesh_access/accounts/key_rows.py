"""API keys in the database; each statement runs in its caller's transaction."""

import json
from collections.abc import Mapping

from mlxmesh_access.accounts.models import Key, Role
from mlxmesh_shared.sql.database import Row, Session
from mlxmesh_shared.sql.statements import upsert

COLUMNS = (
    "key_id",
    "name",
    "prefix",
    "sha256",
    "user_name",
    "role",
    "models",
    "created_ms",
    "expires_ms",
    "last_used_ms",
    "revoked_ms",
)
_PUT = upsert("keys", COLUMNS, ("key_id",))
_LIST = (
    "SELECT * FROM keys WHERE (created_ms, key_id) < ($1, $2) AND ($3 = '' OR user_name = $3)"
    " AND revoked_ms <= $4 ORDER BY created_ms DESC, key_id DESC LIMIT $5"
)
_COUNT = (
    "SELECT count(*) AS found FROM keys"
    " WHERE user_name = $1 AND revoked_ms = 0 AND (expires_ms = 0 OR expires_ms > $2)"
)
_OF_ACTIVE_USERS = (
    "SELECT keys.* FROM keys JOIN users ON users.name = keys.user_name"
    " WHERE users.state = 'active' AND revoked_ms = 0 AND (expires_ms = 0 OR expires_ms > $1)"
)
_USED = "UPDATE keys SET last_used_ms = $2 WHERE key_id = $1 AND last_used_ms < $2"
_ALL_MS = 2**62


async def find_key(session: Session, key_id: str) -> Key | None:
    """A key by its id, or by its prefix."""
    rows = await session.fetch("SELECT * FROM keys WHERE key_id = $1 OR prefix = $1", key_id)
    return to_key(rows[0]) if rows else None


async def list_keys(
    session: Session, *, user: str, revoked: bool, before: tuple[int, str], limit: int
) -> list[Key]:
    """The keys that were created before a time and id, the newest first.

    user: empty for all. revoked: whether revoked ones are among them.
    """
    until_ms = _ALL_MS if revoked else 0
    rows = await session.fetch(_LIST, *before, user, until_ms, limit)
    return [to_key(row) for row in rows]


async def working_keys(session: Session, now_ms: int) -> list[Key]:
    """The keys of active users that are neither revoked nor expired."""
    return [to_key(row) for row in await session.fetch(_OF_ACTIVE_USERS, now_ms)]


async def count_working_keys(session: Session, user: str, now_ms: int) -> int:
    """How many keys of a user are neither revoked nor expired."""
    [row] = await session.fetch(_COUNT, user, now_ms)
    return row["found"]


async def put_key(session: Session, key: Key) -> None:
    """Stores a key."""
    values = {column: getattr(key, column) for column in COLUMNS if column != "user_name"}
    values |= {"user_name": key.user, "models": json.dumps(key.models)}
    await session.fetch(_PUT, *(values[column] for column in COLUMNS))


async def set_last_used(session: Session, last_used_ms: Mapping[str, int]) -> None:
    """Notes when keys were used last; an earlier time than the known one changes nothing."""
    for key_id in sorted(last_used_ms):
        await session.fetch(_USED, key_id, last_used_ms[key_id])


def to_key(row: Row) -> Key:
    """A key from its row."""
    values = {column: row[column] for column in COLUMNS if column != "user_name"}
    values |= {
        "user": row["user_name"],
        "role": Role(row["role"]),
        "models": tuple(json.loads(row["models"])),
    }
    return Key(**values)
