"""Legal and illegal database URLs; no message repeats a password."""

import pytest

from mlxmesh_model.catalogue.database_urls import database_url, place, server_of
from mlxmesh_shared.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("sqlite:////data/model.db", "sqlite+aiosqlite:////data/model.db"),
        ("sqlite+aiosqlite:///model.db", "sqlite+aiosqlite:///model.db"),
        ("postgres://me:pw@db:5433/mesh", "postgresql+asyncpg://me:pw@db:5433/mesh"),
        ("postgresql+asyncpg://me@db/mesh", "postgresql+asyncpg://me@db/mesh"),
        ("postgresql://db/mesh?sslmode=require", "postgresql+asyncpg://db/mesh?ssl=require"),
        ("postgresql:///mesh?host=/run/pg", "postgresql+asyncpg:///mesh?host=%2Frun%2Fpg"),
    ],
)
def test_legal_urls(text: str, rendered: str) -> None:
    assert database_url(text).render_as_string(hide_password=False) == rendered


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("secret", "is not a URL"),
        ("postgresql://me:secret@db:port/mesh", "is not a URL"),
        ("mysql://me:secret@db/mesh", "begins with mysql"),
        ("postgresql+psycopg2://me:secret@db/mesh", r"begins with postgresql\+psycopg2"),
        ("postgresql://me:secret@db", "names no database"),
        ("postgresql://me:secret@db/mesh?connect_timeout=1", "has the option connect_timeout"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
    ],
)
def test_illegal_urls(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"database_url {why}") as caught:
        database_url(text)
    assert caught.value.field == "database_url"
    assert "secret" not in caught.value.message


def test_the_location_of_a_database() -> None:
    assert place(database_url("sqlite:////a b/model.db")) == "/a b/model.db"
    assert place(database_url("postgresql://me:secret@db/mesh")).endswith("//me:***@db/mesh")
    assert server_of(database_url("postgresql://me:secret@db/mesh")) == "db"
    assert server_of(database_url("postgresql:///mesh?host=/run/pg")) == "/run/pg"
    assert server_of(database_url("postgresql:///mesh")) == "localhost"
