"""The tables of the access service, in both kinds of database."""

import stat
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

import mlxmesh_access
from mlxmesh_access.accounts import key_rows, user_rows
from mlxmesh_access.database import AccessDatabase
from mlxmesh_access.schema import ACCESS
from mlxmesh_model.catalogue.schema import CATALOGUE
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.sql.database import open_database
from mlxmesh_shared.sql.schema import Schema
from mlxmesh_shared.sql.upgrade import make_engine
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.clock import FakeClock

SERVICES = {"access": ACCESS, "model": CATALOGUE}


def test_the_newest_revision_is_the_one_that_is_opened_without_alembic() -> None:
    migrations = Path(mlxmesh_access.__file__).parent / "migrations"
    assert ScriptDirectory(str(migrations)).get_heads() == [ACCESS.head]


@pytest.fixture
def schema() -> None:
    """These databases are empty in the beginning."""


async def test_an_empty_database_gets_the_tables(database: DatabaseUrl) -> None:
    await (await open_database(database, ACCESS)).close()
    engine = make_engine(database)
    async with engine.connect() as connection:
        tables = await connection.run_sync(_tables)
    await engine.dispose()
    assert {"users", "keys", "quotas", "usage", "audit_entries", "sessions"} <= tables


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


@pytest.mark.parametrize("first", SERVICES)
async def test_services_do_not_take_each_others_database(database: DatabaseUrl, first: str) -> None:
    (other,) = SERVICES.keys() - {first}
    await (await open_database(database, SERVICES[first])).close()
    with pytest.raises(IllegalState, match="tables of another application"):
        await open_database(database, SERVICES[other])


def test_schemas_share_no_lock_and_no_version_table() -> None:
    schemas: list[Schema] = list(SERVICES.values())
    assert len({one.upgrade_lock for one in schemas}) == len(schemas)
    assert len({one.version_table for one in schemas}) == len(schemas)


async def test_the_migrations_create_the_columns_of_the_code(database: DatabaseUrl) -> None:
    await (await open_database(database, ACCESS)).close()
    engine = make_engine(database)
    async with engine.connect() as connection:
        found = await connection.run_sync(_columns)
    await engine.dispose()
    assert found == {"users": set(user_rows.COLUMNS), "keys": set(key_rows.COLUMNS)}


def _columns(connection: Connection) -> dict[str, set[str]]:
    inspector = inspect(connection)
    tables = ("users", "keys")
    return {name: {column["name"] for column in inspector.get_columns(name)} for name in tables}


@pytest.mark.parametrize("revision", ["0099", "ffff"])
async def test_a_newer_database_is_rejected_in_one_line(
    database: DatabaseUrl, revision: str
) -> None:
    await (await open_database(database, ACCESS)).close()
    engine = make_engine(database)
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE access_version SET version_num = '{revision}'"))
    await engine.dispose()
    match = rf"the access database .* by a newer mlxmesh .*{revision}.*supports {ACCESS.head}"
    with pytest.raises(IllegalState, match=match) as caught:
        await open_database(database, ACCESS)
    assert "\n" not in caught.value.message


async def test_only_its_owner_can_read_a_new_file(tmp_path: Path) -> None:
    """Also where the umask would let others."""
    folder = tmp_path / "deep" / "er"
    database = await AccessDatabase.open(SqliteFile(folder / "access.db"), FakeClock())
    assert await database.revision() == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    await database.close()
    assert {"access.db", "access.db-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}


async def test_a_folder_that_cannot_be_written_is_reported_in_one_line() -> None:
    with pytest.raises(IllegalState, match="/proc/nowhere") as caught:
        await AccessDatabase.open(SqliteFile(Path("/proc/nowhere/access.db")), FakeClock())
    assert "\n" not in caught.value.message
