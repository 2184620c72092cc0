"""Translates errors of a database; decides which of them a retry can fix."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_random_exponential

from mlxmesh_shared.errors import (
    DatabaseBusy,
    IllegalState,
    InvalidArgument,
    MeshError,
    ServiceUnavailable,
)
from mlxmesh_shared.host.disk import disk_error, disk_full, has_no_space, not_writable
from mlxmesh_shared.sql.schema import Schema
from mlxmesh_shared.sql.urls import DatabaseUrl, PostgresServer, SqliteFile, server_of

MAX_ATTEMPTS = 5
_RETRY_DELAY_S = 1.0
_SQLITE_PRIMARY_CODE = 0xFF
# Source: PostgreSQL's documentation, appendix A.
_POSTGRES_FULL = "53100"
_POSTGRES_CONFLICT = ("40001", "40P01", "55P03")
# A standby, or a server that was set so.
_POSTGRES_READ_ONLY = "25006"
_POSTGRES_ILLEGAL_TEXT = "22021"
# Connection failures, shutdown by the server, too many connections.
_POSTGRES_UNREACHABLE = ("08", "57P", "53300", "25P03")
# Unknown user, wrong password, unknown database, missing privilege.
_POSTGRES_DENIED = ("28", "3D000", "42501")


def retrying(max_wait_s: float | None = None) -> AsyncRetrying:
    """Retries while the database is busy; for operations that change nothing if they fail.

    max_wait_s: begins no attempt after this time.
    """
    attempts = stop_after_attempt(MAX_ATTEMPTS)
    return AsyncRetrying(
        retry=retry_if_exception_type(DatabaseBusy),
        stop=attempts if max_wait_s is None else attempts | stop_after_delay(max_wait_s),
        wait=wait_random_exponential(multiplier=0.05, max=1.0),
        reraise=True,
    )


@contextmanager
def explained(url: DatabaseUrl, schema: Schema) -> Generator[None]:
    """Translates a database error into a MeshError with a remedy, if it is known."""
    try:
        yield
    except MeshError:
        raise
    except Exception as error:
        known = _known(error, url, schema)
        if known is None:
            raise
        raise known from error


def busy(schema: Schema) -> DatabaseBusy:
    """The error for a database that other transactions have locked for too long."""
    return DatabaseBusy(
        f"{schema.name} is in use by another process; try again", retry_delay_s=_RETRY_DELAY_S
    )


def damaged(url: DatabaseUrl, schema: Schema, why: str) -> MeshError:
    """The error for a database without the schema's tables, or with only some of them."""
    return IllegalState(
        f"{schema.name} {url} cannot be used: {why}; restore a copy of it, or {schema.remedy}"
    )


def newer(url: DatabaseUrl, schema: Schema, revision: str) -> MeshError:
    """The error for a database that a newer version of this software has written."""
    return IllegalState(
        f"{schema.name} {url} was written by a newer mlxmesh (revision {revision}; this"
        f" one supports {schema.head}); upgrade mlxmesh, or choose another --data-dir or"
        " database_url"
    )


def _known(error: Exception, url: DatabaseUrl, schema: Schema) -> MeshError | None:
    # SQLAlchemy, by which tables are upgraded, wraps the driver's errors.
    cause = getattr(error, "orig", None) or error
    if isinstance(url, SqliteFile):
        return _of_sqlite(cause, url, schema)
    return _of_postgres(cause, url, schema)


def _of_sqlite(error: Exception, url: SqliteFile, schema: Schema) -> MeshError | None:
    path = url.path
    if isinstance(error, OSError):
        return disk_error(error, str(path)) or not_writable(path, error.strerror or "")
    match getattr(error, "sqlite_errorcode", 0) & _SQLITE_PRIMARY_CODE:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return busy(schema)
        case sqlite3.SQLITE_FULL:
            return disk_full(path.parent)
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if has_no_space(path):
            return disk_full(path.parent)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR:
            return not_writable(path, str(error))
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(url, schema, str(error))
        case _:
            return None


def _of_postgres(error: Exception, url: PostgresServer, schema: Schema) -> MeshError | None:
    if isinstance(error, OSError):
        return _unreachable(url, schema, error.strerror)
    state = str(getattr(error, "sqlstate", None) or "")
    if state == _POSTGRES_FULL:
        return disk_full(f"the data directory of PostgreSQL at {server_of(url)}")
    if state in _POSTGRES_CONFLICT:
        return busy(schema)
    if state.startswith(_POSTGRES_UNREACHABLE):
        return _unreachable(url, schema)
    if state == _POSTGRES_READ_ONLY:
        return ServiceUnavailable(
            f"the database server at {server_of(url)} is read-only; try again once it, or the"
            " server that replaces it, can be written"
        )
    if state == _POSTGRES_ILLEGAL_TEXT:
        return InvalidArgument("a text contains the character NUL, which cannot be stored")
    if state.startswith(_POSTGRES_DENIED):
        return IllegalState(
            f"the database {url} denies access: {error}; check `{schema.setting}`,"
            " and that its user may create tables there"
        )
    return None


def _unreachable(url: PostgresServer, schema: Schema, why: str | None = None) -> ServiceUnavailable:
    reason = f" ({why})" if why else ""
    return ServiceUnavailable(
        f"the database server at {server_of(url)} cannot be reached{reason}; check that it is"
        f" running, and check `{schema.setting}`"
    )
