"""A catalogue of each earlier schema, with rows in it, is upgraded, read and changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, insert, inspect

import mlxmesh_model
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import (
    Artifact,
    FailureRecord,
    Model,
    OutputFormats,
    Phase,
    Replica,
    Source,
)
from mlxmesh_model.catalogue.routing import Arm, Policy, Split
from mlxmesh_model.catalogue.schema import CATALOGUE
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.catalogue.upstream import Upstream
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.database import open_database, revision
from mlxmesh_shared.sql.upgrade import make_engine
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.closing import Closing

MIGRATIONS = ScriptDirectory(str(Path(mlxmesh_model.__file__).parent / "migrations"))
REVISIONS = sorted(script.revision for script in MIGRATIONS.walk_revisions())
EARLIER = REVISIONS[:-1]
CREATED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FAILURE = FailureRecord(14, "HUB_UNAVAILABLE", "the hub cannot be reached")
ARTIFACT = Artifact("/models/old/1", "d" * 64, "llama", 2**40, 2**41, "4-bit", 4096, 32_000)
NEXT = Artifact("/models/old/3", "e" * 64, "llama", 1, 2, "float32", 8, 16)

FAILED = {
    "failure_code": FAILURE.code,
    "failure_reason": FAILURE.reason,
    "failure_message": FAILURE.message,
}
ROWS: Mapping[str, list[dict[str, Any]]] = {
    "models": [
        {"name": "old", "sequence": 3, "last_version": 2, "policy": '{"pinned": true}'},
        {"name": "other", "sequence": 2, "last_version": 1},
    ],
    "versions": [
        {
            "model": "old",
            "number": 1,
            "state": "ready",
            "source_directory": "/models/old/1",
            "created_at": CREATED_AT,
            "directory": ARTIFACT.directory,
            "digest": ARTIFACT.digest,
            "architecture": ARTIFACT.architecture,
            "parameters": ARTIFACT.parameters,
            "weights_bytes": ARTIFACT.weights_bytes,
            "dtype": ARTIFACT.dtype,
            "context_tokens": ARTIFACT.context_tokens,
            "vocab_size": ARTIFACT.vocab_size,
            "desired_replicas": 1,
            "intent": 4,
            "tool_format": "hermes",
            "reasoning_format": "none",
        },
        {
            "model": "old",
            "number": 2,
            "state": "pull_failed",
            "repo_id": "owner/name",
            "hub_id": "owner/name",
            "revision": "main",
            "commit": "c0ffee",
            "source_file": "x.gguf",
            "source_dtype": "float16",
            "created_at": CREATED_AT,
            **FAILED,
        },
        {"model": "other", "number": 1, "state": "pulling", "created_at": CREATED_AT},
    ],
    "aliases": [{"model": "old", "alias": "stable", "number": 1}],
    "replicas": [
        {"engine_id": "e-1", "model": "old", "number": 1, "runtime_id": "r", "phase": "ready"},
        {"engine_id": "e-2", "model": "old", "number": 1, "runtime_id": "r", "phase": "failed"}
        | FAILED,
    ],
    "tombstones": [{"name": "gone", "sequence": 1, "last_version": 7}],
    "splits": [
        {
            "model": "old",
            "alias": "chat",
            "content": json.dumps(
                {
                    "rollout_id": "ro-1",
                    "experiment_id": "",
                    "subject": "session",
                    "salt": "s",
                    "arms": [{"name": "a", "version": 1, "weight": 100}],
                }
            ),
        }
    ],
    "artifact_files": [
        {"model": "old", "number": 1, "name": "config.json", "bytes": 2, "sha256": "f" * 64}
    ],
    "artifact_checks": [
        {
            "model": "old",
            "number": 1,
            "damaged_files": '["config.json"]',
            "verified_at": CREATED_AT,
        }
    ],
}


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", CATALOGUE.migrations)
    config.attributes.update(connection=connection, version_table=CATALOGUE.version_table)
    return config


def _migrate(connection: Connection, target: str, *, down: bool = False) -> None:
    change = command.downgrade if down else command.upgrade
    change(_alembic(connection), target)


def _insert(connection: Connection) -> None:
    """Rows with what this schema has columns for; columns without a value get an empty one."""
    present = set(inspect(connection).get_table_names())
    for name, rows in ROWS.items():
        if name not in present:
            continue
        table = Table(name, MetaData(), autoload_with=connection)
        for row in rows:
            values = {c.name: row.get(c.name, _empty(c)) for c in table.columns}
            connection.execute(insert(table), {n: v for n, v in values.items() if v is not None})
    counter = Table("change_counter", MetaData(), autoload_with=connection)
    connection.execute(counter.update().values(value=3))


def _empty(column: Any) -> Any:
    """A value for a column that has no default."""
    if column.server_default is not None or column.nullable:
        return None
    return 0 if column.type.python_type is int else ""


async def migrate(url: DatabaseUrl, target: str, *, rows: bool = False, down: bool = False) -> None:
    """Brings a database to a revision, and puts rows into it."""
    if isinstance(url, SqliteFile):
        url.path.parent.mkdir(parents=True, exist_ok=True)
    engine = make_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(_migrate, target, down=down)
        if rows:
            await connection.run_sync(_insert)
    await engine.dispose()


def check(old: Model, made_at: str) -> None:
    """Everything that a schema had columns for is in the catalogue."""
    loaded, failed = old.versions
    assert (loaded.number, loaded.state, loaded.artifact) == (1, State.READY, ARTIFACT)
    assert (loaded.source, loaded.created_at) == (Source("/models/old/1"), CREATED_AT)
    assert (loaded.desired_replicas, loaded.intent, loaded.failure) == (1, 4, None)
    assert loaded.replicas == (
        Replica("e-1", "r", Phase.READY),
        Replica("e-2", "r", Phase.FAILED, FAILURE),
    )
    assert (failed.state, failed.failure, failed.artifact) == (State.PULL_FAILED, FAILURE, None)
    gguf = ("x.gguf", "float16") if made_at >= "0002" else ("", "")
    assert failed.source == Source("", "owner/name", "main", "c0ffee", *gguf)
    assert old.aliases == {"stable": 1}
    assert old.sequence == 3
    formats = OutputFormats("hermes", "none") if made_at >= "0005" else OutputFormats()
    assert loaded.formats == formats
    assert old.policy == (Policy(pinned=True) if made_at >= "0006" else Policy())
    assert set(old.splits) == ({"chat"} if made_at >= "0006" else set())
    for split in old.splits.values():
        assert isinstance(split, Split)
        assert split.arms == (Arm("a", 1, 100),)
    assert loaded.damaged_files == (("config.json",) if made_at >= "0008" else ())


@pytest.fixture
def schema() -> None:
    """These databases are empty in the beginning."""


@pytest.mark.parametrize("made_at", EARLIER)
async def test_a_catalogue_of_each_earlier_schema(database: DatabaseUrl, made_at: str) -> None:
    await migrate(database, made_at, rows=True)
    opened = await open_database(database, CATALOGUE)
    assert await revision(opened, CATALOGUE) == CATALOGUE.head
    await opened.close()
    store = await Store.open(database)
    try:
        assert [model.name for model in await store.models()] == ["old", "other"]
        check(await store.model("old"), made_at)
        assert [change.name for change in await store.changes(0)] == ["other", "old"]
        assert [change.model for change in await store.changes(0)]
        # And it is changed as one that was made by this version.
        _, number = await store.register("old", NEXT)
        _, first = await store.register("gone", NEXT)
        assert (number, first) == (3, 8 if made_at >= "0003" else 1)
        await store.delete(ModelReference("old", version=2))
        assert await store.sequence() == 6
    finally:
        await store.close()


@pytest.mark.parametrize("target", EARLIER)
async def test_a_downgrade_keeps_what_the_older_schema_has(
    closing: Closing, database: DatabaseUrl, target: str
) -> None:
    await migrate(database, CATALOGUE.head, rows=True)
    await migrate(database, target, down=True)
    store = closing(await Store.open(database))
    check(await store.model("old"), target)


async def test_a_downgrade_drops_what_only_an_upstream_can_answer_for(
    database: DatabaseUrl,
) -> None:
    await migrate(database, CATALOGUE.head, rows=True)
    store = await Store.open(database)
    await store.register_upstream("old", Upstream("http://host/v1", "m", "env:KEY"))
    await store.register_upstream("far", Upstream("http://host/v1", "m"))
    await store.set_alias("old", "far", 3)
    await store.close()
    await migrate(database, "0012", down=True)
    store = await Store.open(database)
    old = await store.model("old")
    assert ([each.number for each in old.versions], old.aliases) == ([1, 2], {"stable": 1})
    assert [model.name for model in await store.models()] == ["old", "other"]
    await store.close()
