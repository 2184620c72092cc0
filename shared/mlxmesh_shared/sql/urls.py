"""The URL of a database: a file on this host, or a PostgreSQL server."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlencode

from mlxmesh_shared.errors import InvalidArgument

_SQLITE = ("sqlite", "sqlite+aiosqlite")
_POSTGRES = ("postgresql", "postgres", "postgresql+asyncpg")
_CACHE_SIZE = "prepared_statement_cache_size"
_OPTIONS = {"host", "port", "ssl", "sslmode", _CACHE_SIZE}
_FORMS = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:////PATH"
_URL = re.compile(
    r"(?P<scheme>[\w+]+)://"
    r"(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:\[(?P<host6>[^/?\]]+)\]|(?P<host>[^/:?]+))?(?::(?P<port>\d+))?"
    r"(?:/(?P<database>[^?]*))?(?:\?(?P<options>.*))?"
)


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A file, whose path may contain any character."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """A database of a PostgreSQL server; what is empty or 0 is left to the driver's defaults."""

    database: str
    user: str = ""
    password: str = field(default="", repr=False)
    host: str = ""
    """The server's name or address, or the directory of its socket."""
    port: int = 0
    ssl: str = ""
    """The mode, such as `require`."""
    statement_cache_size: int | None = None
    """How many prepared statements a connection keeps; 0 where a proxy shares connections."""

    def __str__(self) -> str:
        """The URL without its password."""
        secret = ":***" if self.password else ""
        user = f"{quote(self.user, safe='')}{secret}@" if self.user else ""
        is_socket = self.host.startswith("/")
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        given = {"host": self.host if is_socket else "", "ssl": self.ssl}
        options = {name: value for name, value in given.items() if value}
        query = f"?{urlencode(options)}" if options else ""
        return f"postgresql://{user}{'' if is_socket else host}{port}/{quote(self.database)}{query}"


DatabaseUrl = SqliteFile | PostgresServer


def database_url(text: str) -> DatabaseUrl:
    """The database that a setting names.

    Raises: InvalidArgument, which does not repeat the text because it may contain a password.
    """
    url = _URL.fullmatch(text)
    if url is None:
        raise _invalid(f"is not a URL; it must be like {_FORMS}")
    if url["scheme"] in _SQLITE:
        return _sqlite(url)
    if url["scheme"] in _POSTGRES:
        return _postgres(url)
    raise _invalid(f"begins with {url['scheme']}; it must be like {_FORMS}")


def server_of(url: PostgresServer) -> str:
    """The host of a PostgreSQL server, or the directory of its socket."""
    return url.host or "localhost"


def _sqlite(url: re.Match[str]) -> SqliteFile:
    if url["options"]:
        raise _invalid("has options; those of SQLite cannot be chosen")
    if not url["database"] or url["database"] == ":memory:" or url["host"]:
        raise _invalid("must name a file")
    return SqliteFile(Path(unquote(url["database"])))


def _postgres(url: re.Match[str]) -> PostgresServer:
    options = {name: values[-1] for name, values in parse_qs(url["options"] or "").items()}
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise _invalid(f"has the option {unknown[0]}; known are {', '.join(sorted(_OPTIONS))}")
    if not url["database"]:
        raise _invalid(f"names no database; it must be like {_FORMS}")
    cache_size = options.get(_CACHE_SIZE)
    return PostgresServer(
        database=unquote(url["database"]),
        user=unquote(url["user"] or ""),
        password=unquote(url["password"] or ""),
        host=url["host6"] or url["host"] or options.get("host", ""),
        port=_number(url["port"] or options.get("port", "0"), "port"),
        # Other programs use the longer name of this option.
        ssl=options.get("sslmode") or options.get("ssl", ""),
        statement_cache_size=_number(cache_size, _CACHE_SIZE) if cache_size else None,
    )


def _number(text: str, option: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _invalid(f"has the option {option}, which must be a number") from None


def _invalid(why: str) -> InvalidArgument:
    return InvalidArgument(f"database_url {why}", field="database_url")
