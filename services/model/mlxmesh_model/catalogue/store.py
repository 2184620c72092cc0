"""Those in this process who wait for a change of the catalogue."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial

from sqlalchemy import URL, delete
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from mlxmesh_model.catalogue import lifecycle, queries, rows
from mlxmesh_model.catalogue.database import open_database
from mlxmesh_model.catalogue.lifecycle import ON_DISK, Move, State
from mlxmesh_model.catalogue.models import Artifact, Change, FailureRecord, Model, Source, Version
from mlxmesh_model.catalogue.tables import AliasRow, ModelRow, VersionRow
from mlxmesh_model.catalogue.transactions import Transactions, to_its_end
from mlxmesh_shared.errors import MeshError, ModelNotFound
from mlxmesh_shared.reference import ModelReference


class Bells:
    """An event for each of them."""

    def __init__(self) -> None:
        self._bells: set[asyncio.Event] = set()

    @contextmanager
    def listening(self) -> Generator[asyncio.Event]:
        """An event that is set at each change; the holder clears it before it looks."""
        event = asyncio.Event()
        self._bells.add(event)
        try:
            yield event
        finally:
            self._bells.discard(event)

    def ring(self) -> None:
        """Sets all of them."""
        for bell in self._bells:
            bell.set()


OnChange = Callable[[Model | None, Model | None], None]
"""Told of a model before and after a change; None where there was or is none."""


def _nobody(before: Model | None, after: Model | None) -> None:
    pass


class Store:
    """The catalogue; every change that a watcher could see gets the next sequence number."""

    def __init__(self, engine: AsyncEngine, on_change: OnChange = _nobody) -> None:
        """`on_change` is told of each change that this process makes."""
        self.transactions = Transactions(engine)
        self._on_change = on_change
        self._bells = Bells()

    @classmethod
    async def open(cls, url: URL, on_change: OnChange = _nobody) -> "Store":
        """Opens the catalogue and brings its tables up to date."""
        return cls(await open_database(url), on_change)

    async def close(self) -> None:
        """Closes the database, once what runs has ended."""
        await self.transactions.close()

    def bell(self) -> AbstractContextManager[asyncio.Event]:
        """An event that is set after each change; the holder clears it before it looks."""
        return self._bells.listening()

    async def follow_others(self, interval_s: float = 0.5) -> None:
        """Rings for changes by other processes too, as while one replaces another; never ends."""
        known = await self.sequence()
        while True:
            await asyncio.sleep(interval_s)
            with suppress(
                SQLAlchemyError, MeshError
            ):  # whoever needs the database just now tells of it
                now = await self.sequence()
                if now != known:
                    known = now
                    self._bells.ring()

    # Reading.

    @to_its_end
    async def model(self, name: str, *, field: str = "model") -> Model:
        """One model.

        Raises: ModelNotFound.
        """
        model = await self.transactions.read(partial(queries.find_model, name=name))
        if model is None:
            raise _not_found(name, field=field)
        return model

    @to_its_end
    async def models(self, *, after: str = "", limit: int | None = None) -> list[Model]:
        """The models whose name comes after, by name."""
        return await self.transactions.read(
            partial(queries.read_models, where=ModelRow.name > after, limit=limit)
        )

    @to_its_end
    async def changes(self, after: int) -> list[Change]:
        """What changed after a sequence number, in order; after 0 every model as it is."""
        return await self.transactions.read(partial(queries.read_changes, after=after))

    @to_its_end
    async def sequence(self) -> int:
        """The number of the last change."""
        return await self.transactions.read(queries.last_sequence)

    # Versions come and go.

    @to_its_end
    async def register(
        self, name: str, artifact: Artifact, source: Source | None = None
    ) -> tuple[Model, int]:
        """A directory as a version; the same content is the version that it already was, from now
        on in this directory. One that was made of a `source` does not replace another.
        """
        source = source or Source(directory=artifact.directory)
        async with self._changing(name) as (session, model):
            known = model.with_content(artifact.digest) if model else None
            if known is None:
                row = await queries.add_version(session, name, source)
                row.state = State.AVAILABLE.value
            else:
                row = await queries.version_row(session, known)
            if known is None or (known.source.directory and source.directory):
                rows.set_source(row, source)
                rows.set_artifact(row, artifact)
        return await self.model(name), row.number

    @to_its_end
    async def begin_pull(self, name: str, source: Source) -> Version:
        """The version that a pull goes into: the one that it already filled, an earlier try that
        failed, or a new one.

        Raises: IllegalState while another call pulls it.
        """
        async with self._changing(name) as (session, model):
            known = model.pulled_from(source) if model else None
            if known is None:
                row = await queries.add_version(session, name, source)
            elif known.state in ON_DISK:
                return known
            else:
                row = await queries.version_row(session, known)
                row.state = lifecycle.after(known.state, Move.PULL, subject=known.label).value
                rows.set_source(row, source)
                rows.set_failure(row, None)
        return (await self.model(name)).version(row.number)

    @to_its_end
    async def finish_pull(self, version: Version, artifact: Artifact) -> Version:
        """The pulled version, which is on disk now."""
        async with self._moving(version, Move.FINISH_PULL) as (_, row):
            rows.set_artifact(row, artifact)
        return (await self.model(version.model)).version(version.number)

    @to_its_end
    async def fail_pull(self, version: Version, failure: FailureRecord) -> None:
        """Keeps why a pull ended early."""
        async with self._moving(version, Move.FAIL_PULL) as (_, row):
            rows.set_failure(row, failure)

    @to_its_end
    async def delete(self, reference: ModelReference) -> list[Version]:
        """Removes a version, or all of a model, and tells which; files are the caller's.

        Raises: ModelNotFound. IllegalState when one of them is loaded or being pulled.
        """
        async with self._changing(reference.name) as (session, model):
            if model is None:
                raise _not_found(reference.name)
            whole = reference.version is None and reference.alias is None
            doomed = list(model.versions) if whole else [model.resolve(reference)]
            for version in doomed:
                lifecycle.after(version.state, Move.DELETE, subject=version.label)
                await session.delete(await queries.version_row(session, version))
            if len(doomed) == len(model.versions):
                await session.execute(delete(ModelRow).where(ModelRow.name == model.name))
        return doomed

    @to_its_end
    async def set_alias(self, name: str, alias: str, number: int) -> Model:
        """Points an alias at a version; 0 removes it.

        Raises: ModelNotFound.
        """
        async with self._changing(name) as (session, model):
            if model is None:
                raise _not_found(name, field="name")
            if number == 0:
                await session.execute(
                    delete(AliasRow).where(AliasRow.model == name, AliasRow.alias == alias)
                )
            else:
                model.version(number, field="version")
                await session.merge(AliasRow(model=name, alias=alias, number=number))
        return await self.model(name)

    # Replicas.

    @to_its_end
    async def intend(self, reference: ModelReference, *, replicas: int) -> Version:
        """Sets how many replicas should be loaded, 0 for none; whatever failed is tried anew.

        Raises: ModelNotFound. IllegalState when the version cannot be loaded.
        """
        model = await self.model(reference.name)
        version = model.resolve(reference)
        async with self._moving(version, Move.LOAD if replicas else Move.UNLOAD) as (session, row):
            row.desired_replicas = replicas
            row.intent += 1
            rows.set_failure(row, None)
            if replicas:
                await queries.retry_failed_replicas(session, version)
        return (await self.model(version.model)).version(version.number)

    @to_its_end
    async def record(self, version: Version) -> bool:
        """Writes a version's replicas and what follows from them; False, and nothing written, when
        its intent has changed since it was read.
        """
        async with self._changing(version.model) as (session, _):
            row = await session.get(VersionRow, (version.model, version.number))
            if row is None or row.intent != version.intent:
                return False
            row.state = version.state.value
            rows.set_failure(row, version.failure)
            await queries.set_replicas(session, version)
        return True

    # How a change is made.

    @asynccontextmanager
    async def _changing(self, name: str) -> AsyncGenerator[tuple[AsyncSession, Model | None]]:
        """A transaction on one model, with the model as it was; numbers the change when there is
        one that a watcher sees.
        """
        async with self.transactions.write() as session:
            before = await queries.find_model(session, name)
            last_version = await queries.last_version(session, name)
            yield session, before
            await session.flush()
            session.expire_all()
            after = await queries.find_model(session, name)
            changed = _visible(before) != _visible(after)
            if changed:
                await queries.number_change(
                    session, name, removed=after is None, last_version=last_version
                )
        if changed:
            self._bells.ring()
            self._on_change(before, after)

    @asynccontextmanager
    async def _moving(
        self, version: Version, move: Move
    ) -> AsyncGenerator[tuple[AsyncSession, VersionRow]]:
        """A transaction that makes a move of a version's life."""
        async with self._changing(version.model) as (session, model):
            if model is None:
                raise _not_found(version.model)
            current = model.version(version.number)
            row = await queries.version_row(session, current)
            row.state = lifecycle.after(current.state, move, subject=current.label).value
            yield session, row


def _not_found(name: str, *, field: str = "model") -> ModelNotFound:
    return ModelNotFound(f"there is no model {name}; list the models to see which", field=field)


def _visible(model: Model | None) -> object:
    """What a watcher sees of a model."""
    if model is None:
        return None
    versions = [(replace(v, replicas=(), intent=0), v.ready_replicas) for v in model.versions]
    return versions, dict(model.aliases)
