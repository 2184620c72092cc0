"""The URL of the catalogue's database: a file on this host, or a PostgreSQL server."""

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from mlxmesh_shared.errors import InvalidArgument

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}
_OPTIONS = {"host", "port", "ssl", "sslmode", "prepared_statement_cache_size"}
_FORMS = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:////PATH"


def sqlite_url(path: Path) -> URL:
    """The URL of a file, whose path may contain characters that are special in a URL."""
    return URL.create(_DRIVERS["sqlite"], database=str(path))


def database_url(text: str) -> URL:
    """The URL of a setting, with the driver that is used here.

    Raises: InvalidArgument, which does not repeat the text because it may contain a password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise _invalid(f"is not a URL; it must be like {_FORMS}") from error
    driver = _DRIVERS.get(url.get_backend_name())
    if driver is None or url.drivername not in (url.get_backend_name(), driver):
        raise _invalid(f"begins with {url.drivername}; it must be like {_FORMS}")
    url = url.set(drivername=driver)
    return _checked_sqlite(url) if is_sqlite(url) else _checked_postgres(url)


def is_sqlite(url: URL) -> bool:
    """Whether the database is a file on this host."""
    return url.get_backend_name() == "sqlite"


def place(url: URL) -> str:
    """The location of a database for messages: a path, or a URL without its password."""
    return str(url.database) if is_sqlite(url) else url.render_as_string(hide_password=True)


def server_of(url: URL) -> str:
    """The host of a PostgreSQL server, or the directory of its socket."""
    return str(url.host or url.query.get("host") or "localhost")


def _checked_sqlite(url: URL) -> URL:
    if not url.database or url.database == ":memory:":
        raise _invalid("must name a file")
    return url


def _checked_postgres(url: URL) -> URL:
    unknown = sorted(set(url.query) - _OPTIONS)
    if unknown:
        raise _invalid(f"has the option {unknown[0]}; known are {', '.join(sorted(_OPTIONS))}")
    if not url.database:
        raise _invalid(f"names no database; it must be like {_FORMS}")
    # Other programs use the longer name of this option.
    if mode := url.query.get("sslmode"):
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return url


def _invalid(why: str) -> InvalidArgument:
    return InvalidArgument(f"database_url {why}", field="database_url")
