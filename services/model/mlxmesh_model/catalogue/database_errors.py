"""What an error of the catalogue's database means, and which go away when one tries again."""

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
_POSTGRES_AGAIN = ("40001", "40P01", "55P03")
# The connection, its end by the server, too many of them.
_POSTGRES_AWAY = ("08", "57P", "53300", "25P03")
# No such user, wrong password, no such database, no right to do it.
_POSTGRES_REFUSED = ("28", "3D000", "42501")


def retrying() -> AsyncRetrying:
    """Tries again what only found the database in use; for what changes nothing when it fails."""
    return AsyncRetrying(
        retry=retry_if_exception_type(CatalogueBusy),
        stop=stop_after_attempt(MAX_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.05, max=1.0),
        reraise=True,
    )


@contextmanager
def explained(url: URL) -> Generator[None]:
    """Turns a database's error into one that says what to do, where that is known."""
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
    """For a database that holds no catalogue, or only parts of one."""
    return IllegalState(
        f"the catalogue {place(url)} cannot be used: {why}; restore a copy of it, or begin with an"
        " empty one elsewhere (files of models are kept; register or pull them again)"
    )


def newer(url: URL, revision: str, known: str) -> MeshError:
    """For a database that a later version of this software has written."""
    return IllegalState(
        f"the catalogue {place(url)} is of a newer mlxmesh (revision {revision}, this one knows"
        f" {known}); upgrade mlxmesh, or choose another --data-dir or database_url"
    )


def _known(error: Exception, url: URL) -> MeshError | None:
    # As a connection is made, the driver's errors come as they are.
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    if isinstance(cause, sqlite3.Error):
        return _of_sqlite(cause, url)
    if isinstance(cause, OSError):
        return _of_file(cause, url) if is_sqlite(url) else _away(url, cause.strerror)
    state = getattr(cause, "sqlstate", None)
    if isinstance(state, str):
        return _of_postgres(state, cause, url)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return _away(url)
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
    if state in _POSTGRES_AGAIN:
        return _busy()
    if state.startswith(_POSTGRES_AWAY):
        return _away(url)
    if state.startswith(_POSTGRES_REFUSED):
        return IllegalState(
            f"the database {place(url)} refuses the catalogue: {error}; check `[model]"
            " database_url`, and that its user may create tables there"
        )
    return None


def _away(url: URL, why: str | None = None) -> ServiceUnavailable:
    reason = f" ({why})" if why else ""
    return ServiceUnavailable(
        f"the catalogue's database at {server_of(url)} cannot be reached{reason}; see that it runs,"
        " and check `[model] database_url`"
    )


def _busy() -> CatalogueBusy:
    return CatalogueBusy("the catalogue is in use by another process; try again")
