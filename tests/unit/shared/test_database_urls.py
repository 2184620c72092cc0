"""Legal and illegal database URLs; no message repeats a password."""

from pathlib import Path

import pytest

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.sql.urls import (
    DatabaseUrl,
    PostgresServer,
    SqliteFile,
    database_url,
    server_of,
)

DB = PostgresServer(database="mesh", host="db")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("sqlite:////data/model.db", SqliteFile(Path("/data/model.db"))),
        ("sqlite+aiosqlite:///model.db", SqliteFile(Path("model.db"))),
        ("sqlite:////a b/%231%3F.db", SqliteFile(Path("/a b/#1?.db"))),
        (
            "postgres://me:pw@db:5433/mesh",
            PostgresServer(database="mesh", user="me", password="pw", host="db", port=5433),
        ),
        (
            "postgresql+asyncpg://me@db/mesh",
            PostgresServer(database="mesh", user="me", host="db"),
        ),
        (
            "postgresql://m%40e:p%2Fw/#?@db/mesh",
            PostgresServer(database="mesh", user="m@e", password="p/w/#?", host="db"),
        ),
        ("postgresql://[::1]:5433/mesh", PostgresServer(database="mesh", host="::1", port=5433)),
        (
            "postgresql://db/mesh?sslmode=require",
            PostgresServer(database="mesh", host="db", ssl="require"),
        ),
        ("postgresql:///mesh?host=/run/pg", PostgresServer(database="mesh", host="/run/pg")),
        (
            "postgresql:///mesh?host=db&port=5433",
            PostgresServer(database="mesh", host="db", port=5433),
        ),
        (
            "postgresql://db/mesh?prepared_statement_cache_size=0",
            PostgresServer(database="mesh", host="db", statement_cache_size=0),
        ),
    ],
)
def test_legal_urls(text: str, url: DatabaseUrl) -> None:
    assert database_url(text) == url


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("secret", "is not a URL"),
        ("postgresql://me:secret@db:port/mesh", "is not a URL"),
        ("mysql://me:secret@db/mesh", "begins with mysql"),
        ("postgresql+psycopg2://me:secret@db/mesh", r"begins with postgresql\+psycopg2"),
        ("postgresql://me:secret@db", "names no database"),
        ("postgresql://me:secret@db/mesh?connect_timeout=1", "has the option connect_timeout"),
        ("postgresql:///mesh?host=db&port=secret", "has the option port, which must be a number"),
        (
            "postgresql://db/mesh?prepared_statement_cache_size=secret",
            "has the option prepared_statement_cache_size, which must be a number",
        ),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite://host/model.db", "must name a file"),
        ("sqlite:///model.db?mode=ro", "has options"),
    ],
)
def test_illegal_urls(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"database_url {why}") as caught:
        database_url(text)
    assert caught.value.field == "database_url"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sqlite:////a b/model.db", "/a b/model.db"),
        ("postgresql://me:secret@db/mesh", "postgresql://me:***@db/mesh"),
        ("postgresql://[::1]:5433/mesh", "postgresql://[::1]:5433/mesh"),
        ("postgresql:///mesh?host=/run/pg", "postgresql:///mesh?host=%2Frun%2Fpg"),
        ("postgresql://db/mesh?sslmode=require", "postgresql://db/mesh?ssl=require"),
    ],
)
def test_a_url_for_messages_has_no_password(text: str, shown: str) -> None:
    assert str(database_url(text)) == shown
    assert "secret" not in repr(database_url(text))


def test_the_server_of_a_url() -> None:
    assert server_of(DB) == "db"
    assert server_of(PostgresServer(database="mesh", host="/run/pg")) == "/run/pg"
    assert server_of(PostgresServer(database="mesh")) == "localhost"
