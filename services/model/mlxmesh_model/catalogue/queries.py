"""SQL statements of the store; each runs in its caller's transaction."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from mlxmesh_model.catalogue import rows
from mlxmesh_model.catalogue.models import Change, Model, Phase, Source, Version
from mlxmesh_model.catalogue.tables import (
    AliasRow,
    CounterRow,
    ModelRow,
    ReplicaRow,
    TombstoneRow,
    VersionRow,
)

_Row = TypeVar("_Row", VersionRow, AliasRow, ReplicaRow)


async def read_models(
    session: AsyncSession, where: ColumnElement[bool], *, limit: int | None = None
) -> list[Model]:
    """The models that a condition selects, ordered by name, read in four statements."""
    found = (
        await session.scalars(select(ModelRow).where(where).order_by(ModelRow.name).limit(limit))
    ).all()
    # A subquery, because SQLite accepts at most 32,766 parameters.
    names = select(ModelRow.name).where(where).order_by(ModelRow.name).limit(limit)
    versions = _by_model(
        await session.scalars(
            select(VersionRow).where(VersionRow.model.in_(names)).order_by(VersionRow.number)
        )
    )
    aliases = _by_model(await session.scalars(select(AliasRow).where(AliasRow.model.in_(names))))
    replicas = _by_model(
        await session.scalars(
            select(ReplicaRow).where(ReplicaRow.model.in_(names)).order_by(ReplicaRow.engine_id)
        )
    )
    return [
        rows.to_model(
            row,
            versions=versions[row.name],
            aliases=aliases[row.name],
            replicas=replicas[row.name],
        )
        for row in found
    ]


def _by_model(found: Iterable[_Row]) -> defaultdict[str, list[_Row]]:
    grouped: defaultdict[str, list[_Row]] = defaultdict(list)
    for row in found:
        grouped[row.model].append(row)
    return grouped


async def find_model(session: AsyncSession, name: str) -> Model | None:
    """A model by its name."""
    found = await read_models(session, ModelRow.name == name)
    return found[0] if found else None


async def read_changes(session: AsyncSession, *, after: int) -> list[Change]:
    """The changes after a sequence number, in order; after 0, every model as it is."""
    changed = await read_models(session, ModelRow.sequence > after)
    found = [Change(model.sequence, model.name, model) for model in changed]
    if after:
        removed = select(TombstoneRow).where(TombstoneRow.sequence > after)
        tombstones = await session.scalars(removed)
        found += [Change(row.sequence, row.name, None) for row in tombstones]
    return sorted(found, key=lambda change: change.sequence)


async def last_sequence(session: AsyncSession) -> int:
    """The sequence number of the last change."""
    return (await session.scalars(select(CounterRow.value))).one()


async def version_row(session: AsyncSession, version: Version) -> VersionRow:
    """The row of an existing version."""
    return await session.get_one(VersionRow, (version.model, version.number))


async def add_version(session: AsyncSession, name: str, source: Source) -> VersionRow:
    """Adds a version with the next number, and its model if it does not exist."""
    model = await session.get(ModelRow, name)
    if model is None:
        removed = await session.get(TombstoneRow, name)
        last_version = removed.last_version if removed is not None else 0
        model = ModelRow(name=name, sequence=0, last_version=last_version)
        session.add(model)
        await session.flush()
    model.last_version += 1
    row = rows.new_version_row(name, model.last_version, source)
    session.add(row)
    return row


async def set_replicas(session: AsyncSession, version: Version) -> None:
    """Replaces the stored replicas of a version with its present ones."""
    engine_ids = [replica.engine_id for replica in version.replicas]
    await session.execute(
        delete(ReplicaRow).where(
            ReplicaRow.model == version.model,
            ReplicaRow.number == version.number,
            ReplicaRow.engine_id.not_in(engine_ids),
        )
    )
    for replica in version.replicas:
        await session.merge(rows.new_replica_row(version, replica))


async def retry_failed_replicas(session: AsyncSession, version: Version) -> None:
    """Marks failed replicas as pending, so that they are started again."""
    await session.execute(
        update(ReplicaRow)
        .where(
            ReplicaRow.model == version.model,
            ReplicaRow.number == version.number,
            ReplicaRow.phase == Phase.FAILED.value,
        )
        .values(phase=Phase.PENDING.value, failure_code=0, failure_reason="", failure_message="")
    )


async def last_version(session: AsyncSession, name: str) -> int:
    """The largest version number that a model ever had; 0 for none."""
    return await session.scalar(select(ModelRow.last_version).where(ModelRow.name == name)) or 0


async def number_change(
    session: AsyncSession, name: str, *, removed: bool, last_version: int
) -> None:
    """Gives a change the next sequence number; a removed model leaves a tombstone."""
    sequence = (
        await session.scalars(
            update(CounterRow).values(value=CounterRow.value + 1).returning(CounterRow.value)
        )
    ).one()
    await session.execute(delete(TombstoneRow).where(TombstoneRow.name == name))
    if removed:
        session.add(TombstoneRow(name=name, sequence=sequence, last_version=last_version))
    else:
        await session.execute(
            update(ModelRow).where(ModelRow.name == name).values(sequence=sequence)
        )
