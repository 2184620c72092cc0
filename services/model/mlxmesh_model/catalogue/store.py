"""The catalogue: reading and changing models, versions, aliases and replicas."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial

from mlxmesh_model.catalogue import files, lifecycle, queries
from mlxmesh_model.catalogue.files import StoredFile
from mlxmesh_model.catalogue.lifecycle import ON_DISK, Action, State
from mlxmesh_model.catalogue.models import (
    Artifact,
    Change,
    FailureRecord,
    Model,
    OutputFormats,
    Source,
    Version,
)
from mlxmesh_model.catalogue.recipes import affects, references_of
from mlxmesh_model.catalogue.routing import Policy
from mlxmesh_model.catalogue.schema import CATALOGUE
from mlxmesh_model.catalogue.upstream import Upstream
from mlxmesh_model.profiles.profile import (
    NO_CHOICE,
    GroupChoice,
    ProfileReference,
    check_fits_model,
)
from mlxmesh_model.profiles.queries import find as find_profile
from mlxmesh_shared.errors import (
    AdapterExists,
    IllegalState,
    InvalidArgument,
    ModelNotFound,
    NameInUse,
)
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.change_signal import ChangeSignal
from mlxmesh_shared.sql.database import Database, Session, open_database
from mlxmesh_shared.sql.transactions import Transactions, uncancellable
from mlxmesh_shared.sql.urls import DatabaseUrl

OnChange = Callable[[Model | None, Model | None], None]
"""Called with a model before and after a change; None if it did not or does not exist."""

MayWrite = Callable[[Session], Awaitable[bool]]
"""Asked within a transaction whether it may write."""


def _ignore(before: Model | None, after: Model | None) -> None:
    pass


def _unclaimed(version: Version) -> None:
    pass


class Store:
    """The catalogue. Every change that a watcher can see gets the next sequence number."""

    def __init__(self, url: DatabaseUrl, database: Database, on_change: OnChange = _ignore) -> None:
        """`on_change` is called after each change that this process makes."""
        self.transactions = Transactions(url, CATALOGUE, database)
        self._on_change = on_change
        self._changed = ChangeSignal()

    @classmethod
    async def open(cls, url: DatabaseUrl, on_change: OnChange = _ignore) -> "Store":
        """Opens the catalogue and upgrades its tables."""
        return cls(url, await open_database(url, CATALOGUE), on_change)

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
        await self._changed.poll(self.sequence, interval_s, others)

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
            lambda session: queries.read_models(session, "name > $1", after, limit=limit)
        )

    @uncancellable
    async def check_name(self, name: str) -> None:
        """Raises: NameInUse for a name that no model can have."""
        _check_name(name, await self.transactions.read(partial(queries.find_model, name=name)))

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
        self,
        name: str,
        artifact: Artifact,
        source: Source | None = None,
        stored: Sequence[StoredFile] = (),
    ) -> tuple[Model, int]:
        """Registers a directory as a version. Content that is already a version of the model stays
        that version, now in this directory; a directory that was made from a `source` replaces only
        one whose files are damaged.

        stored: the directory's files, when they are in the store.

        Raises: NameInUse for the name of an ensemble.
        """
        source = source or Source(directory=artifact.directory)
        async with self.changing(name) as (session, model):
            _check_name(name, model)
            version = model.with_content(artifact) if model else None
            if version is None:
                version = await queries.new_version(session, name, source)
                added = replace(version, state=State.AVAILABLE, artifact=artifact)
                await queries.put_version(session, added)
                await _put_stored(session, version, stored)
            elif version.damaged_files or (version.source.directory and source.directory):
                moved = replace(version, source=source, artifact=artifact)
                await queries.put_version(session, moved)
                await _put_stored(session, version, stored)
        return await self.model(name), version.number

    @uncancellable
    async def register_upstream(self, name: str, upstream: Upstream) -> tuple[Model, int]:
        """Registers an upstream as a version that is switched on. One that is a version of the
        model already stays that version, as it is.

        Raises: NameInUse for the name of an ensemble.
        """
        async with self.changing(name) as (session, model):
            _check_name(name, model)
            version = model.with_upstream(upstream) if model else None
            if version is None:
                version = await queries.new_version(session, name, Source())
                added = replace(version, state=State.LOADING, upstream=upstream)
                # The bare name of a model that is in use keeps its meaning.
                await _put_intent(session, replace(added, selected=model is None), 1)
        return await self.model(name), version.number

    @uncancellable
    async def record_health(self, version: Version, failure: FailureRecord | None) -> bool:
        """Writes what a check of an upstream found. Returns False, and writes nothing, when it was
        switched on or off since the version was read, or the same is known already.
        """
        async with self.changing(version.model) as (session, model):
            stored = _version(model, version.number)
            if stored is None or stored.intent != version.intent or not stored.desired_replicas:
                return False
            checked = stored.with_health(failure)
            if checked == stored:
                return False
            await queries.put_version(session, checked)
        return True

    @uncancellable
    async def begin_pull(
        self, name: str, source: Source, claim: Callable[[Version], None] = _unclaimed
    ) -> Version:
        """The version that a pull fills: one with this content, one of an earlier failed attempt,
        or a new one. One with this content and damaged files is filled again.

        `claim` is called with a version that is to be filled, before anybody can see that it is.
        Raises: IllegalState while another call pulls it, NameInUse for the name of an ensemble.
        """
        async with self.changing(name) as (session, model):
            _check_name(name, model)
            version = model.pulled_from(source) if model else None
            if version is None:
                version = await queries.new_version(session, name, source)
            elif version.state in ON_DISK and not version.damaged_files:
                return version
            else:
                state = lifecycle.next_state(version.state, Action.PULL, subject=version.label)
                version = replace(version, state=state, source=source, failure=None)
            await queries.put_version(session, version)
            claim(version)
        return (await self.model(name)).version(version.number)

    @uncancellable
    async def finish_pull(
        self, version: Version, artifact: Artifact, stored: Sequence[StoredFile] = ()
    ) -> Version:
        """Marks a pulled version as available and returns it; `stored` are its files."""
        async with self._transition(version, Action.FINISH_PULL) as (session, now):
            await queries.put_version(session, replace(now, artifact=artifact))
            await _put_stored(session, now, stored)
        return (await self.model(version.model)).version(version.number)

    @uncancellable
    async def fail_pull(self, version: Version, failure: FailureRecord) -> None:
        """Marks a version whose pull failed and stores the cause."""
        async with self._transition(version, Action.FAIL_PULL) as (session, now):
            await queries.put_version(session, replace(now, failure=failure))

    @uncancellable
    async def delete(self, reference: ModelReference) -> list[Version]:
        """Removes a version or a whole model and returns the removed versions. The caller removes
        their files.

        Raises: ModelNotFound. IllegalState when one of them is loaded or being pulled, or an
        ensemble needs it.
        """
        async with self.changing(reference.name) as (session, model):
            if model is None:
                raise _not_found(reference.name)
            _check_not_ensemble(model)
            whole = reference.version is None and reference.alias is None
            removed = list(model.versions) if whole else [model.resolve(reference)]
            gone = {version.number for version in removed}
            all_gone = len(removed) == len(model.versions)
            await _check_unnamed(session, model, None if all_gone else gone)
            for version in removed:
                _check_unused(model, version)
                lifecycle.next_state(version.state, Action.DELETE, subject=version.label)
                await queries.delete_version(session, version)
            if all_gone:
                await queries.delete_model(session, model.name)
        return removed

    @uncancellable
    async def set_alias(self, name: str, alias: str, number: int) -> Model:
        """Sets an alias to a version; 0 removes the alias.

        Raises: ModelNotFound. IllegalState while the alias is split, and to remove one that an
        ensemble names. AdapterExists for the name of an adapter.
        """
        async with self.changing(name) as (session, model):
            if model is None:
                raise _not_found(name, field="name")
            _check_not_ensemble(model)
            if alias in model.splits:
                holder = model.splits[alias].holder
                raise IllegalState(f"{holder} splits {name}:{alias}; end it first")
            if number and alias in model.adapters:
                raise AdapterExists(
                    f"{name} has an adapter {alias}; choose another alias, or remove the adapter",
                    field="alias",
                )
            if number == 0:
                await check_alias_unnamed(session, name, alias)
                await queries.delete_alias(session, name, alias)
            else:
                model.version(number, field="version")
                await queries.put_alias(session, name, alias, number)
        return await self.model(name)

    @uncancellable
    async def set_output_formats(
        self, name: str, number: int, *, tools: str | None, reasoning: str | None
    ) -> Model:
        """Sets the formats of a version, or of all for 0; None leaves one as it is.

        Raises: ModelNotFound.
        """
        async with self.changing(name) as (session, model):
            if model is None:
                raise _not_found(name, field="name")
            _check_not_ensemble(model)
            changed = [model.version(number, field="version")] if number else model.versions
            for version in changed:
                formats = OutputFormats(
                    version.formats.tools if tools is None else tools,
                    version.formats.reasoning if reasoning is None else reasoning,
                )
                await queries.put_version(session, replace(version, formats=formats))
        return await self.model(name)

    @uncancellable
    async def set_policy(self, name: str, policy: Policy) -> Model:
        """Sets the whole policy of a model.

        Raises: ModelNotFound.
        """
        async with self.changing(name) as (session, model):
            if model is None:
                raise _not_found(name, field="name")
            _check_not_ensemble(model)
            await queries.put_policy(session, name, policy)
        return await self.model(name)

    @uncancellable
    async def update_policy(self, name: str, changes: Policy) -> Model:
        """Sets those parts of a model's policy that `changes` has.

        Raises: ModelNotFound. InvalidArgument when min_replicas would exceed max_replicas.
        """
        async with self.changing(name) as (session, model):
            if model is None:
                raise _not_found(name, field="name")
            await queries.put_policy(session, name, model.policy.updated(changes))
        return await self.model(name)

    # Changing replicas.

    @uncancellable
    async def set_desired_replicas(
        self,
        reference: ModelReference,
        *,
        replicas: int,
        profile: ProfileReference | None = None,
        group: GroupChoice = NO_CHOICE,
    ) -> Version:
        """Sets how many replicas should be loaded, 0 for none, and retries failed ones.

        profile: what they are started with; None for that of the last load. group: what differs.
        Raises: ModelNotFound, ProfileNotFound. IllegalState when the version cannot be loaded,
        which is ModelFilesDamaged after a check found that. InvalidArgument when it cannot be
        loaded with the profile.
        """
        model = await self.model(reference.name)
        _check_not_ensemble(model)
        version = model.resolve(reference)
        if replicas:
            version.check_files()
            _check_loadable(version, replicas, profile, group)
        action = Action.LOAD if replicas else Action.UNLOAD
        async with self._transition(version, action) as (session, now):
            if profile is not None:
                chosen = await find_profile(session, profile)
                context_tokens = now.artifact.context_tokens if now.artifact else 0
                check_fits_model(chosen, label=now.label, context_tokens=context_tokens)
                now = now.with_profile(chosen)
            if group:
                now = replace(now, settings=group.over(now.settings))
            await _put_intent(session, replace(now, selected=replicas > 0), replicas)
        return (await self.model(version.model)).version(version.number)

    @uncancellable
    async def demand(self, version: Version, *, replicas: int) -> Version:
        """Sets how many replicas should be loaded, unless some are wanted already.

        Raises: as set_desired_replicas().
        """
        version.check_files()
        async with self._transition(version, Action.LOAD) as (session, now):
            if not now.desired_replicas:
                await _put_intent(session, now, replicas)
        return (await self.model(version.model)).version(version.number)

    @uncancellable
    async def adjust(self, version: Version, *, replicas: int) -> bool:
        """Sets how many replicas should be loaded. Returns False, and changes nothing, when the
        intent has changed since the version was read.

        Raises: ModelNotFound. IllegalState when the version cannot be loaded.
        """
        action = Action.LOAD if replicas else Action.UNLOAD
        async with self._transition(version, action) as (session, now):
            if now.intent != version.intent:
                return False
            await _put_intent(session, now, replicas)
        return True

    @uncancellable
    async def record(self, version: Version, *, may_write: MayWrite | None = None) -> bool:
        """Writes a version's replicas and the state that follows from them. Returns False, and
        writes nothing, when the intent has changed since the version was read, or when its caller
        no longer leads.
        """
        async with self.changing(version.model) as (session, model):
            if may_write is not None and not await may_write(session):
                return False
            stored = _version(model, version.number)
            if stored is None or stored.intent != version.intent:
                return False
            observed = replace(stored, state=version.state, failure=version.failure)
            await queries.put_version(session, observed)
            await queries.set_replicas(session, stored, version.replicas)
        return True

    # Transactions.

    @asynccontextmanager
    async def changing(self, name: str) -> AsyncGenerator[tuple[Session, Model | None]]:
        """A transaction on one model, with its state before the change. A change that a watcher can
        see gets the next sequence number.
        """
        async with self.transactions.write() as session:
            before = await queries.find_model(session, name)
            last_version = await queries.last_version(session, name)
            yield session, before
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
    ) -> AsyncGenerator[tuple[Session, Version]]:
        """A transaction on a version, with its state after an action; the caller stores it."""
        async with self.changing(version.model) as (session, model):
            if model is None:
                raise _not_found(version.model)
            current = model.version(version.number)
            state = lifecycle.next_state(current.state, action, subject=current.label)
            yield session, replace(current, state=state)


async def put_desired_replicas(session: Session, version: Version, replicas: int) -> None:
    """Sets how many replicas should be loaded, within its caller's transaction.

    Raises: IllegalState when the version cannot be loaded.
    """
    action = Action.LOAD if replicas else Action.UNLOAD
    state = lifecycle.next_state(version.state, action, subject=version.label)
    await _put_intent(session, replace(version, state=state), replicas)


async def _put_intent(session: Session, version: Version, replicas: int) -> None:
    intent = version.intent + 1
    if version.upstream is not None:
        replicas = min(1, replicas)
        version = version if replicas else replace(version, state=State.AVAILABLE)
    intended = replace(version, desired_replicas=replicas, intent=intent, failure=None)
    await queries.put_version(session, intended)
    if replicas:
        await queries.retry_failed_replicas(session, version)


def _check_loadable(
    version: Version, replicas: int, profile: ProfileReference | None, group: GroupChoice
) -> None:
    """Raises: InvalidArgument for what an upstream cannot be loaded with."""
    if version.upstream is not None and replicas > 1:
        raise InvalidArgument(
            f"replicas: {version.label} is an upstream, which has no replicas; leave it out",
            field="replicas",
        )
    if version.upstream is not None and profile is not None:
        raise InvalidArgument(
            f"profile: {version.label} is an upstream, which takes no profile; leave it out",
            field="profile",
        )
    if version.upstream is not None and group:
        field = "group_size" if group.size is not None else "group_split"
        raise InvalidArgument(
            f"{field}: {version.label} is an upstream, which has no ranks; leave it out",
            field=field,
        )


async def _put_stored(session: Session, version: Version, stored: Sequence[StoredFile]) -> None:
    """The files of a version that were just stored or read, so that none of them is damaged."""
    await files.put_files(session, version.model, version.number, stored)
    await files.delete_check(session, version.model, version.number)


def _not_found(name: str, *, field: str = "model") -> ModelNotFound:
    return ModelNotFound(f"there is no model {name}; list the models to see which", field=field)


def _check_name(name: str, model: Model | None) -> None:
    """Raises: NameInUse for the name of an ensemble."""
    if model is not None and model.ensemble:
        raise NameInUse(
            f"{name} is an ensemble; choose another name, or run `mlxmesh ensembles delete {name}`",
            field="name",
        )


def _check_not_ensemble(model: Model) -> None:
    """Raises: IllegalState for an ensemble, which has neither versions nor replicas."""
    if model.ensemble:
        raise IllegalState(
            f"{model.name} is an ensemble; only `mlxmesh ensembles` and EnsembleService change it, "
            "and its models are loaded by their own names"
        )


async def _check_unnamed(session: Session, model: Model, versions: set[int] | None) -> None:
    """Raises: IllegalState while an ensemble needs these versions of a model; None for all."""
    for name, recipe in await queries.recipes(session):
        for reference in references_of(recipe):
            if affects(reference, model, versions):
                raise IllegalState(
                    f"ensemble {name} uses {reference}; change its recipe or delete it first"
                )


async def check_alias_unnamed(session: Session, name: str, alias: str) -> None:
    """Raises: IllegalState while an ensemble names an alias or an adapter of a model."""
    for ensemble, recipe in await queries.recipes(session):
        if ModelReference(name, alias=alias) in references_of(recipe):
            raise IllegalState(
                f"ensemble {ensemble} uses {name}:{alias}; change its recipe or delete it first"
            )


def _check_unused(model: Model, version: Version) -> None:
    """Raises: IllegalState while a split or a shadow refers to the version."""
    for split in model.splits.values():
        if any(arm.version == version.number for arm in split.arms):
            raise IllegalState(f"{split.holder} uses {version.label}; end it first")
    for shadow in model.shadows:
        if version.number in (shadow.from_version, shadow.to_version):
            raise IllegalState(f"shadow {shadow.shadow_id} uses {version.label}; stop it first")


def _version(model: Model | None, number: int) -> Version | None:
    versions = model.versions if model is not None else ()
    return next((version for version in versions if version.number == number), None)


def _visible(model: Model | None) -> object:
    """The part of a model that a watcher sees, or that a load waits for."""
    if model is None:
        return None
    versions = [
        (replace(v, replicas=(), intent=0), v.ready_replicas, v.current_ready_replicas)
        for v in model.versions
    ]
    rest = model.policy, dict(model.splits), model.shadows, model.ensemble, dict(model.adapters)
    return versions, dict(model.aliases), rest
