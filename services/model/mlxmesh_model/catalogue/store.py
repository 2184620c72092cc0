"""The catalogue: reading and changing models, versions, aliases and replicas."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

from sqlalchemy import URL, delete
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from mlxmesh_model.catalogue import lifecycle, queries, rows
from mlxmesh_model.catalogue.change_signal import ChangeSignal
from mlxmesh_model.catalogue.database import open_database
from mlxmesh_model.catalogue.lifecycle import ON_DISK, Action, State
from mlxmesh_model.catalogue.models import Artifact, Change, FailureRecord, Model, Source, Version
from mlxmesh_model.catalogue.tables import AliasRow, ModelRow, VersionRow
from mlxmesh_model.catalogue.transactions import Transactions, uncancellable
from mlxmesh_shared.errors import MeshError, ModelNotFound
from mlxmesh_shared.reference import ModelReference

OnChange = Callable[[Model | None, Model | None], None]
"""Called with a model before and after a change; None if it did not or does not exist."""


def _ignore(before: Model | None, after: Model | None) -> None:
    pass


class Store:
    """The catalogue. Every change that a watcher can see gets the next sequence number."""

    def __init__(self, engine: AsyncEngine, on_change: OnChange = _ignore) -> None:
        """`on_change` is called after each change that this process makes."""
        self.transactions = Transactions(engine)
        self._on_change = on_change
        self._changed = ChangeSignal()

    @classmethod
    async def open(cls, url: URL, on_change: OnChange = _ignore) -> "Store":
        """Opens the catalogue and upgrades its tables."""
        return cls(await open_database(url), on_change)

    async def close(self) -> None:
        """Closes the database after running operations have ended."""
        await self.transactions.close()

    def subscribe(self) -> AbstractContextManager[asyncio.Event]:
        """An event that is set after each change; the subscriber clears it before it reads."""
        return self._changed.subscribe()

    async def poll_changes(
        self, interval_s: float = 0.5, *, others: asyncio.Event | None = None
    ) -> None:
        """Notifies subscribers of changes by other processes too; never ends.

        others: set while there are other processes that may change the catalogue.
        """
        known = await self.sequence()
        while True:
            if others is not None:
                await others.wait()
            await asyncio.sleep(interval_s)
            # The calls that need the database report its errors.
            with suppress(SQLAlchemyError, MeshError):
                now = await self.sequence()
                if now != known:
                    known = now
                    self._changed.notify()

    # Reading.

    @uncancellable
    async def model(self, name: str, *, field: str = "model") -> Model:
        """One model.

        Raises: ModelNotFound.
        """
        model = await self.transactions.read(partial(queries.find_model, name=name))
        if model is None:
            raise _not_found(name, field=field)
        return model

    @uncancellable
    async def models(self, *, after: str = "", limit: int | None = None) -> list[Model]:
        """The models whose name sorts after `after`, ordered by name."""
        return await self.transactions.read(
            partial(queries.read_models, where=ModelRow.name > after, limit=limit)
        )

    @uncancellable
    async def changes(self, after: int) -> list[Change]:
        """The changes after a sequence number, in order; after 0, every model as it is."""
        return await self.transactions.read(partial(queries.read_changes, after=after))

    @uncancellable
    async def sequence(self) -> int:
        """The sequence number of the last change."""
        return await self.transactions.read(queries.last_sequence)

    # Changing versions and aliases.

    @uncancellable
    async def register(
        self, name: str, artifact: Artifact, source: Source | None = None
    ) -> tuple[Model, int]:
        """Registers a directory as a version. Content that is already a version of the model stays
        that version, now in this directory; a directory that was made from a `source` does not
        replace the present one.
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

    @uncancellable
    async def begin_pull(self, name: str, source: Source) -> Version:
        """The version that a pull fills: one with this content, one of an earlier failed attempt,
        or a new one.

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
                row.state = lifecycle.next_state(
                    known.state, Action.PULL, subject=known.label
                ).value
                rows.set_source(row, source)
                rows.set_failure(row, None)
        return (await self.model(name)).version(row.number)

    @uncancellable
    async def finish_pull(self, version: Version, artifact: Artifact) -> Version:
        """Marks a pulled version as available and returns it."""
        async with self._transition(version, Action.FINISH_PULL) as (_, row):
            rows.set_artifact(row, artifact)
        return (await self.model(version.model)).version(version.number)

    @uncancellable
    async def fail_pull(self, version: Version, failure: FailureRecord) -> None:
        """Marks a version whose pull failed and stores the cause."""
        async with self._transition(version, Action.FAIL_PULL) as (_, row):
            rows.set_failure(row, failure)

    @uncancellable
    async def delete(self, reference: ModelReference) -> list[Version]:
        """Removes a version or a whole model and returns the removed versions. The caller removes
        their files.

        Raises: ModelNotFound. IllegalState when one of them is loaded or being pulled.
        """
        async with self._changing(reference.name) as (session, model):
            if model is None:
                raise _not_found(reference.name)
            whole = reference.version is None and reference.alias is None
            removed = list(model.versions) if whole else [model.resolve(reference)]
            for version in removed:
                lifecycle.next_state(version.state, Action.DELETE, subject=version.label)
                await session.delete(await queries.version_row(session, version))
            if len(removed) == len(model.versions):
                await session.execute(delete(ModelRow).where(ModelRow.name == model.name))
        return removed

    @uncancellable
    async def set_alias(self, name: str, alias: str, number: int) -> Model:
        """Sets an alias to a version; 0 removes the alias.

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

    # Changing replicas.

    @uncancellable
    async def set_desired_replicas(self, reference: ModelReference, *, replicas: int) -> Version:
        """Sets how many replicas should be loaded, 0 for none, and retries failed ones.

        Raises: ModelNotFound. IllegalState when the version cannot be loaded.
        """
        model = await self.model(reference.name)
        version = model.resolve(reference)
        action = Action.LOAD if replicas else Action.UNLOAD
        async with self._transition(version, action) as (session, row):
            row.desired_replicas = replicas
            row.intent += 1
            rows.set_failure(row, None)
            if replicas:
                await queries.retry_failed_replicas(session, version)
        return (await self.model(version.model)).version(version.number)

    @uncancellable
    async def record(self, version: Version) -> bool:
        """Writes a version's replicas and the state that follows from them. Returns False, and
        writes nothing, when the intent has changed since the version was read.
        """
        async with self._changing(version.model) as (session, _):
            row = await session.get(VersionRow, (version.model, version.number))
            if row is None or row.intent != version.intent:
                return False
            row.state = version.state.value
            rows.set_failure(row, version.failure)
            await queries.set_replicas(session, version)
        return True

    # Transactions.

    @asynccontextmanager
    async def _changing(self, name: str) -> AsyncGenerator[tuple[AsyncSession, Model | None]]:
        """A transaction on one model, with its state before the change. A change that a watcher can
        see gets the next sequence number.
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
            self._changed.notify()
            self._on_change(before, after)

    @asynccontextmanager
    async def _transition(
        self, version: Version, action: Action
    ) -> AsyncGenerator[tuple[AsyncSession, VersionRow]]:
        """A transaction that changes the state of a version by an action."""
        async with self._changing(version.model) as (session, model):
            if model is None:
                raise _not_found(version.model)
            current = model.version(version.number)
            row = await queries.version_row(session, current)
            row.state = lifecycle.next_state(current.state, action, subject=current.label).value
            yield session, row


def _not_found(name: str, *, field: str = "model") -> ModelNotFound:
    return ModelNotFound(f"there is no model {name}; list the models to see which", field=field)


def _visible(model: Model | None) -> object:
    """The part of a model that a watcher sees."""
    if model is None:
        return None
    versions = [(replace(v, replicas=(), intent=0), v.ready_replicas) for v in model.versions]
    return versions, dict(model.aliases)
