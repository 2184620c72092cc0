"""Translates errors of the catalogue's database; decides which of them a retry can fix."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from mlxmesh_model.catalogue.database_urls import is_sqlite, place, server_of
from mlxmesh_shared.errors import CatalogueBusy, IllegalState, MeshError, ServiceUnavailable
from mlxmesh_shared.host.disk import disk_error, disk_full, has_no_space, not_writable

MAX_ATTEMPTS = 5
_SQLITE_PRIMARY_CODE = 0xFF
# Source: PostgreSQL's documentation, appendix A.
_POSTGRES_FULL = "53100"
_POSTGRES_CONFLICT = ("40001", "40P01", "55P03")
# Connection failures, shutdown by the server, too many connections.
_POSTGRES_UNREACHABLE = ("08", "57P", "53300", "25P03")
# Unknown user, wrong password, unknown database, missing privilege.
_POSTGRES_DENIED = ("28", "3D000", "42501")


def retrying() -> AsyncRetrying:
    """Retries while the database is busy; for operations that change nothing if they fail."""
    return AsyncRetrying(
        retry=retry_if_exception_type(CatalogueBusy),
        stop=stop_after_attempt(MAX_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.05, max=1.0),
        reraise=True,
    )


@contextmanager
def explained(url: URL) -> Generator[None]:
    """Translates a database error into a MeshError with a remedy, if it is known."""
    try:
        yield
    except MeshError:
        raise
    except Exception as error:
        known = _known(error, url)
        if known is None:
            raise
        raise known from error


def damaged(url: URL, why: str) -> MeshError:
    """The error for a database without a catalogue, or with only parts of one."""
    return IllegalState(
        f"the catalogue {place(url)} cannot be used: {why}; restore a copy of it, or start with"
        " an empty one elsewhere (model files remain; register or pull them again)"
    )


def newer(url: URL, revision: str, known: str) -> MeshError:
    """The error for a database that a newer version of this software has written."""
    return IllegalState(
        f"the catalogue {place(url)} was written by a newer mlxmesh (revision {revision}; this"
        f" one supports {known}); upgrade mlxmesh, or choose another --data-dir or database_url"
    )


def _known(error: Exception, url: URL) -> MeshError | None:
    # While connecting, SQLAlchemy does not wrap the driver's errors.
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    if isinstance(cause, sqlite3.Error):
        return _of_sqlite(cause, url)
    if isinstance(cause, OSError):
        return _of_file(cause, url) if is_sqlite(url) else _unreachable(url, cause.strerror)
    state = getattr(cause, "sqlstate", None)
    if isinstance(state, str):
        return _of_postgres(state, cause, url)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return _unreachable(url)
    return None


def _of_file(error: OSError, url: URL) -> MeshError:
    known = disk_error(error, url.database)
    return known or not_writable(Path(url.database or "."), error.strerror or "")


def _of_sqlite(error: sqlite3.Error, url: URL) -> MeshError | None:
    path = Path(url.database or ".")
    match getattr(error, "sqlite_errorcode", 0) & _SQLITE_PRIMARY_CODE:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return _busy()
        case sqlite3.SQLITE_FULL:
            return disk_full(path.parent)
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if has_no_space(path):
            return disk_full(path.parent)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR:
            return not_writable(path, str(error))
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(url, str(error))
        case _:
            return None


def _of_postgres(state: str, error: BaseException, url: URL) -> MeshError | None:
    if state == _POSTGRES_FULL:
        return disk_full(f"the data directory of PostgreSQL at {server_of(url)}")
    if state in _POSTGRES_CONFLICT:
        return _busy()
    if state.startswith(_POSTGRES_UNREACHABLE):
        return _unreachable(url)
    if state.startswith(_POSTGRES_DENIED):
        return IllegalState(
            f"the database {place(url)} denies access: {error}; check `[model] database_url`,"
            " and that its user may create tables there"
        )
    return None


def _unreachable(url: URL, why: str | None = None) -> ServiceUnavailable:
    reason = f" ({why})" if why else ""
    return ServiceUnavailable(
        f"the catalogue's database at {server_of(url)} cannot be reached{reason}; check that it is"
        " running, and check `[model] database_url`"
    )


def _busy() -> CatalogueBusy:
    return CatalogueBusy("the catalogue is in use by another process; try again")
