"""The tables of the jobs service, in both kinds of database."""

import stat
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

import mlxmesh_jobs
from mlxmesh_access.schema import ACCESS
from mlxmesh_jobs.storage import records
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.schema import JOBS
from mlxmesh_model.catalogue.schema import CATALOGUE
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.sql.database import open_database
from mlxmesh_shared.sql.upgrade import make_engine
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.clock import FakeClock

OTHERS = {"access": ACCESS, "model": CATALOGUE}


def test_the_newest_revision_is_the_one_that_is_opened_without_alembic() -> None:
    migrations = Path(mlxmesh_jobs.__file__).parent / "migrations"
    assert ScriptDirectory(str(migrations)).get_heads() == [JOBS.head]


@pytest.fixture
def schema() -> None:
    """These databases are empty in the beginning."""


async def test_the_migrations_create_the_columns_of_the_code(database: DatabaseUrl) -> None:
    await (await open_database(database, JOBS)).close()
    engine = make_engine(database)
    async with engine.connect() as connection:
        found = await connection.run_sync(_columns)
    await engine.dispose()
    assert found == set(records.COLUMNS)


def _columns(connection: Connection) -> set[str]:
    return {column["name"] for column in inspect(connection).get_columns("jobs")}


@pytest.mark.parametrize("other", OTHERS)
async def test_services_do_not_take_each_others_database(database: DatabaseUrl, other: str) -> None:
    await (await open_database(database, JOBS)).close()
    with pytest.raises(IllegalState, match="tables of another application"):
        await open_database(database, OTHERS[other])


def test_schemas_share_no_lock_and_no_version_table() -> None:
    schemas = [JOBS, *OTHERS.values()]
    assert len({one.upgrade_lock for one in schemas}) == len(schemas)
    assert len({one.version_table for one in schemas}) == len(schemas)


async def test_a_newer_database_is_rejected_in_one_line(database: DatabaseUrl) -> None:
    await (await open_database(database, JOBS)).close()
    engine = make_engine(database)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE jobs_version SET version_num = '0099'"))
    await engine.dispose()
    match = rf"the jobs database .* by a newer mlxmesh .*0099.*supports {JOBS.head}"
    with pytest.raises(IllegalState, match=match) as caught:
        await open_database(database, JOBS)
    assert "\n" not in caught.value.message


async def test_only_its_owner_can_read_a_new_file(tmp_path: Path) -> None:
    """Also where the umask would let others."""
    folder = tmp_path / "deep" / "er"
    database = await JobsDatabase.open(SqliteFile(folder / "jobs.db"), FakeClock())
    assert await database.change() == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    await database.close()
    assert {"jobs.db", "jobs.db-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}
