"""SQL statements of the store, for both databases; each runs in its caller's transaction."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

from mlxmesh_model.catalogue import rows
from mlxmesh_model.catalogue.adapter import Adapter
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import Change, Model, Phase, Replica, Source, Version
from mlxmesh_model.catalogue.routing import Policy, Split
from mlxmesh_shared.sql.database import Row, Session, Value
from mlxmesh_shared.sql.statements import upsert

Where = Literal["name = $1", "name > $1", "name > $1 AND ensemble <> ''", "sequence > $1"]
"""Selects models."""


_PUT_VERSION = upsert("versions", rows.VERSION_COLUMNS, ("model", "number"))
_PUT_REPLICA = upsert("replicas", rows.REPLICA_COLUMNS, ("engine_id",))
_PUT_ALIAS = upsert("aliases", ("model", "alias", "number"), ("model", "alias"))
_PUT_SPLIT = upsert("splits", ("model", "alias", "content"), ("model", "alias"))
_PUT_ADAPTER = upsert("adapters", rows.ADAPTER_COLUMNS, ("model", "name"))
_TABLES = {
    "versions": "number",
    "aliases": "alias",
    "replicas": "engine_id",
    "splits": "alias",
    "shadows": "shadow_id",
    "artifact_checks": "number",
    "adapters": "name",
}
"""What belongs to a model, and the column it is ordered by."""


async def read_models(
    session: Session, where: Where, *values: Value, limit: int | None = None
) -> list[Model]:
    """The models that a condition selects, ordered by name, read in one statement a table."""
    if limit is not None:
        values = (*values, limit)
    chosen = f"FROM models WHERE {where} ORDER BY name" + (" LIMIT $2" if limit is not None else "")
    # A subquery, because SQLite accepts at most 32,766 parameters.
    of_chosen = f"WHERE model IN (SELECT name {chosen})"
    found = await session.fetch(f"SELECT * {chosen}", *values)
    parts = {
        table: _by_model(
            await session.fetch(f"SELECT * FROM {table} {of_chosen} ORDER BY {key}", *values)  # noqa: S608
        )
        for table, key in _TABLES.items()
    }
    return [
        rows.to_model(row, **{table: of_model[row["name"]] for table, of_model in parts.items()})
        for row in found
    ]


def _by_model(found: Iterable[Row]) -> defaultdict[str, list[Row]]:
    grouped: defaultdict[str, list[Row]] = defaultdict(list)
    for row in found:
        grouped[row["model"]].append(row)
    return grouped


async def find_model(session: Session, name: str) -> Model | None:
    """A model by its name."""
    found = await read_models(session, "name = $1", name)
    return found[0] if found else None


async def read_changes(session: Session, *, after: int) -> list[Change]:
    """The changes after a sequence number, in order; after 0, every model as it is."""
    changed = await read_models(session, "sequence > $1", after)
    found = [Change(model.sequence, model.name, model) for model in changed]
    if after:
        removed = "SELECT name, sequence FROM tombstones WHERE sequence > $1"
        tombstones = await session.fetch(removed, after)
        found += [Change(row["sequence"], row["name"], None) for row in tombstones]
    return sorted(found, key=lambda change: change.sequence)


async def last_sequence(session: Session) -> int:
    """The sequence number of the last change."""
    [row] = await session.fetch("SELECT value FROM change_counter")
    return row["value"]


async def new_version(session: Session, name: str, source: Source) -> Version:
    """A version with the next number, for `put_version`; adds its model if it does not exist."""
    number = await _add_model(session, name) + 1
    await session.fetch("UPDATE models SET last_version = $2 WHERE name = $1", name, number)
    return Version(
        model=name,
        number=number,
        state=State.PULLING,
        source=source,
        created_at=datetime.now(UTC),
    )


async def _add_model(session: Session, name: str) -> int:
    """Adds a model if it does not exist; returns the largest version number that it ever had."""
    found = await session.fetch("SELECT last_version FROM models WHERE name = $1", name)
    if found:
        return found[0]["last_version"]
    removed = "SELECT last_version FROM tombstones WHERE name = $1"
    found = await session.fetch(removed, name)
    last_version = found[0]["last_version"] if found else 0
    add = "INSERT INTO models (name, sequence, last_version) VALUES ($1, 0, $2)"
    await session.fetch(add, name, last_version)
    return last_version


async def put_ensemble(session: Session, name: str, recipe: str) -> None:
    """Sets the recipe of an ensemble; adds the ensemble if it does not exist."""
    await _add_model(session, name)
    await session.fetch("UPDATE models SET ensemble = $2 WHERE name = $1", name, recipe)


async def recipes(session: Session) -> list[tuple[str, str]]:
    """The name and the recipe of every ensemble, by name."""
    select = "SELECT name, ensemble FROM models WHERE ensemble <> '' ORDER BY name"
    return [(row["name"], row["ensemble"]) for row in await session.fetch(select)]


async def put_version(session: Session, version: Version) -> None:
    """Stores a version, but not its replicas."""
    await session.fetch(_PUT_VERSION, *rows.version_values(version))


async def delete_version(session: Session, version: Version) -> None:
    """Removes a version."""
    delete = "DELETE FROM versions WHERE model = $1 AND number = $2"
    await session.fetch(delete, version.model, version.number)


async def delete_model(session: Session, name: str) -> None:
    """Removes a model with all that belongs to it."""
    await session.fetch("DELETE FROM models WHERE name = $1", name)


async def put_alias(session: Session, name: str, alias: str, number: int) -> None:
    """Sets an alias of a model."""
    await session.fetch(_PUT_ALIAS, name, alias, number)


async def delete_alias(session: Session, name: str, alias: str) -> None:
    """Removes an alias of a model."""
    await session.fetch("DELETE FROM aliases WHERE model = $1 AND alias = $2", name, alias)


async def put_policy(session: Session, name: str, policy: Policy) -> None:
    """Sets the policy of a model."""
    text = rows.policy_text(policy)
    await session.fetch("UPDATE models SET policy = $2 WHERE name = $1", name, text)


async def put_split(session: Session, name: str, alias: str, split: Split) -> None:
    """Splits an alias of a model."""
    await session.fetch(_PUT_SPLIT, name, alias, rows.split_text(split))


async def delete_split(session: Session, name: str, alias: str) -> None:
    """Removes the split of an alias."""
    await session.fetch("DELETE FROM splits WHERE model = $1 AND alias = $2", name, alias)


async def put_adapter(session: Session, adapter: Adapter) -> None:
    """Sets an adapter of a model."""
    await session.fetch(_PUT_ADAPTER, *rows.adapter_values(adapter))


async def delete_adapter(session: Session, model: str, name: str) -> None:
    """Removes an adapter of a model."""
    await session.fetch("DELETE FROM adapters WHERE model = $1 AND name = $2", model, name)


async def read_adapters(
    session: Session, *, model: str, after: tuple[str, str], limit: int
) -> list[Adapter]:
    """The adapters after one, by model and name; of one model, or of all without a name."""
    found = await session.fetch(
        "SELECT * FROM adapters WHERE ($1 = '' OR model = $1)"
        " AND (model > $2 OR (model = $2 AND name > $3)) ORDER BY model, name LIMIT $4",
        *(model, *after, limit),
    )
    return [rows.to_adapter(row) for row in found]


async def set_replicas(session: Session, stored: Version, replicas: Sequence[Replica]) -> None:
    """Replaces the stored replicas of a version."""
    kept = {replica.engine_id for replica in replicas}
    for replica in stored.replicas:
        if replica.engine_id not in kept:
            delete = "DELETE FROM replicas WHERE engine_id = $1"
            await session.fetch(delete, replica.engine_id)
    for replica in replicas:
        await session.fetch(_PUT_REPLICA, *rows.replica_values(stored, replica))


async def retry_failed_replicas(session: Session, version: Version) -> None:
    """Marks failed replicas as pending, so that they are started again."""
    await session.fetch(
        "UPDATE replicas SET phase = $3, failure_code = 0, failure_reason = '',"
        " failure_message = '' WHERE model = $1 AND number = $2 AND phase = $4",
        *(version.model, version.number, Phase.PENDING.value, Phase.FAILED.value),
    )


async def last_version(session: Session, name: str) -> int:
    """The largest version number that a model ever had; 0 for none."""
    found = await session.fetch("SELECT last_version FROM models WHERE name = $1", name)
    return found[0]["last_version"] if found else 0


async def number_change(session: Session, name: str, *, removed: bool, last_version: int) -> None:
    """Gives a change the next sequence number; a removed model leaves a tombstone."""
    count = "UPDATE change_counter SET value = value + 1 RETURNING value"
    [row] = await session.fetch(count)
    await session.fetch("DELETE FROM tombstones WHERE name = $1", name)
    if removed:
        add = "INSERT INTO tombstones (name, sequence, last_version) VALUES ($1, $2, $3)"
        await session.fetch(add, name, row["value"], last_version)
    else:
        update = "UPDATE models SET sequence = $2 WHERE name = $1"
        await session.fetch(update, name, row["value"])
