"""Users in the database; each statement runs in its caller's transaction."""

from mlxmesh_access.accounts.models import Role, User, UserKind, UserState
from mlxmesh_shared.sql.database import Row, Session
from mlxmesh_shared.sql.statements import upsert

COLUMNS = (
    "name",
    "kind",
    "state",
    "role",
    "team",
    "password_hash",
    "oidc_issuer",
    "oidc_subject",
    "created_ms",
    "last_sign_in_ms",
    "tokens_valid_from_ms",
)
_PUT = upsert("users", COLUMNS, ("name",))
_OTHER_ADMINS = (
    "SELECT count(*) AS found FROM users WHERE role = 'admin' AND state = 'active' AND name <> $1"
)

_DELETE_QUOTAS = (
    "DELETE FROM quotas WHERE (subject_kind = 'user' AND subject = $1) OR (subject_kind = 'key'"
    " AND subject IN (SELECT key_id FROM keys WHERE user_name = $1))"
)


async def find_user(session: Session, name: str) -> User | None:
    """A user by its name."""
    rows = await session.fetch("SELECT * FROM users WHERE name = $1", name)
    return to_user(rows[0]) if rows else None


async def find_oidc_user(session: Session, issuer: str, subject: str) -> User | None:
    """A user by its identity at an OpenID Connect issuer."""
    find = "SELECT * FROM users WHERE oidc_issuer = $1 AND oidc_subject = $2"
    rows = await session.fetch(find, issuer, subject)
    return to_user(rows[0]) if rows else None


async def list_users(session: Session, *, after: str, limit: int) -> list[User]:
    """The users whose name sorts after `after`, by name."""
    find = "SELECT * FROM users WHERE name > $1 ORDER BY name LIMIT $2"
    return [to_user(row) for row in await session.fetch(find, after, limit)]


async def active_users(session: Session) -> list[User]:
    """The users who may use the mesh."""
    rows = await session.fetch("SELECT * FROM users WHERE state = 'active' ORDER BY name")
    return [to_user(row) for row in rows]


async def put_user(session: Session, user: User) -> None:
    """Stores a user."""
    await session.fetch(_PUT, *(getattr(user, column) for column in COLUMNS))


async def delete_user(session: Session, name: str) -> None:
    """Removes a user with its keys and sessions, and their quotas."""
    await session.fetch(_DELETE_QUOTAS, name)
    await session.fetch("DELETE FROM users WHERE name = $1", name)


async def end_sessions(session: Session, name: str) -> None:
    """Ends a user's sessions: no refresh token of them works any more."""
    await session.fetch("DELETE FROM sessions WHERE user_name = $1", name)


async def has_users(session: Session) -> bool:
    """Whether there is any user."""
    return bool(await session.fetch("SELECT name FROM users LIMIT 1"))


async def count_pending(session: Session) -> int:
    """How many users wait for approval."""
    [row] = await session.fetch("SELECT count(*) AS found FROM users WHERE state = 'pending'")
    return row["found"]


async def count_other_admins(session: Session, name: str) -> int:
    """How many active admins there are besides a user."""
    [row] = await session.fetch(_OTHER_ADMINS, name)
    return row["found"]


def to_user(row: Row) -> User:
    """A user from its row."""
    values = {column: row[column] for column in COLUMNS}
    values |= {
        "kind": UserKind(values["kind"]),
        "state": UserState(values["state"]),
        "role": Role(values["role"]),
    }
    return User(**values)
