"""Rollouts in SQL. What a rollout is and what its alias refers to change in one transaction."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

from mlxmesh_model.catalogue import queries as catalogue_queries
from mlxmesh_model.catalogue.models import DEFAULT_ALIAS, Model, Version
from mlxmesh_model.catalogue.store import Store, put_desired_replicas
from mlxmesh_model.experiments.queries import check_unclaimed
from mlxmesh_model.rollouts import machine, queries
from mlxmesh_model.rollouts.guards import Counts
from mlxmesh_model.rollouts.machine import ASKED, REPEATED, Action, Decision, Observed
from mlxmesh_model.rollouts.release import left_version, replicas_after, replicas_before
from mlxmesh_model.rollouts.rollout import ENDED, Change, Rollout, Wish
from mlxmesh_shared.errors import IllegalState, InvalidArgument, ModelNotFound, RolloutNotFound
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

OnChange = Callable[[Rollout, Change, Action | None], None]
"""Called after each change that this process makes, with its action; None for the start."""


def _ignore(rollout: Rollout, change: Change, action: Action | None) -> None:
    pass


class RolloutStore:
    """Starts and moves rollouts. Of several processes that decide the same, one has an effect."""

    def __init__(self, catalogue: Store, on_change: OnChange = _ignore) -> None:
        self.catalogue = catalogue
        self._on_change = on_change

    @property
    def transactions(self) -> Transactions:
        return self.catalogue.transactions

    # Reading.

    @uncancellable
    async def get(self, rollout_id: str) -> Rollout:
        """One rollout. Raises: RolloutNotFound."""
        return _found(
            await self.transactions.read(partial(queries.find, rollout_id=rollout_id)), rollout_id
        )

    @uncancellable
    async def history(self, rollout_id: str) -> list[Change]:
        """Every change of a rollout, oldest first."""
        return await self.transactions.read(partial(queries.read_changes, rollout_id=rollout_id))

    @uncancellable
    async def page(
        self, *, model: str, before: tuple[int, str] | None, limit: int
    ) -> list[Rollout]:
        """Rollouts, the newest first."""
        return await self.transactions.read(
            partial(queries.read_page, model=model, before=before, limit=limit)
        )

    @uncancellable
    async def active(self) -> list[Rollout]:
        """The rollouts that have something left to do."""
        return await self.transactions.read(queries.read_active)

    @uncancellable
    async def observe(self, rollout: Rollout) -> Observed:
        """What the next decision depends on."""

        async def read(session: Session) -> Observed:
            model = await catalogue_queries.find_model(session, rollout.wish.model)
            versions = model.versions if model is not None else ()
            of_new = (v for v in versions if v.number == rollout.wish.to_version)
            new = await queries.read_counts(
                session, rollout.rollout_id, rollout.wish.to_version, newest=rollout.window
            )
            present = await queries.read_counts(
                session, rollout.rollout_id, rollout.from_version, newest=rollout.window
            )
            enough = max(1, rollout.wish.min_requests)
            return Observed(
                next(of_new, None),
                next((counts for window, counts in new if window == rollout.window), Counts()),
                # At 100 % the present version has no requests any more.
                next((counts for _, counts in present if counts.requests >= enough), Counts()),
            )

        return await self.transactions.read(read)

    # Changing.

    @uncancellable
    async def start(self, rollout_id: str, wish: Wish, *, now: datetime, principal: str) -> Rollout:
        """Starts a rollout, and loads its new version; one that was started so before is returned.

        Raises: ModelNotFound. InvalidArgument. IllegalState for a version that cannot be loaded, an
        alias that is split, or an id that another rollout has.
        """
        async with self.catalogue.changing(wish.model) as (session, model):
            known = await queries.find(session, rollout_id)
            if known is not None:
                return _repeated(known, wish)
            if model is None:
                raise ModelNotFound(f"there is no model {wish.model}", field="name")
            rollout = await _begin(session, model, rollout_id, wish, now)
            rollout = await _taken_over(session, rollout)
            change = machine.change_of(rollout, "started", now, principal=principal)
            await _put(session, rollout, change)
        self._on_change(rollout, change, None)
        return rollout

    @uncancellable
    async def move(self, rollout: Rollout, decision: Decision, *, now: datetime) -> Rollout | None:
        """Carries out a decision on a rollout as it was read; None if it has moved since."""
        async with self.catalogue.changing(rollout.wish.model) as (session, _):
            current = await queries.find(session, rollout.rollout_id)
            if current is None or current.revision != rollout.revision:
                return None
            moved, change = machine.move(current, decision, now=now)
            await _put(session, moved, change)
        self._on_change(moved, change, decision.action)
        return moved

    @uncancellable
    async def ask(
        self, rollout_id: str, action: Action, *, now: datetime, principal: str
    ) -> Rollout:
        """Does what somebody asks for, in whatever state the rollout is by now; what is already so
        stays so.

        Raises: RolloutNotFound. IllegalState.
        """
        name = (await self.get(rollout_id)).wish.model
        async with self.catalogue.changing(name) as (session, model):
            current = _found(await queries.find(session, rollout_id), rollout_id)
            if (current.state, action) in REPEATED:
                return current
            decision = Decision(action, f"{ASKED[action]} by {principal or 'a caller'}")
            moved, change = machine.move(current, decision, now=now, principal=principal)
            if action is Action.PROMOTE:
                _check_ready(model, current)
            await _put(session, moved, change)
        self._on_change(moved, change, action)
        return moved

    @uncancellable
    async def release(self, rollout: Rollout) -> bool:
        """Unloads what the end of a rollout leaves unused; False if that is already done."""
        async with self.catalogue.changing(rollout.wish.model) as (session, model):
            current = await queries.find(session, rollout.rollout_id)
            if current is None or current.released:
                return False
            if model is not None:
                for version, replicas in replicas_after(current, model):
                    await put_desired_replicas(session, version, replicas)
            await queries.put(session, replace(current, released=True))
        return True


async def _begin(
    session: Session, model: Model, rollout_id: str, wish: Wish, now: datetime
) -> Rollout:
    """Loads the new version, and makes the rollout."""
    split = model.splits.get(wish.alias)
    if split is not None:
        raise IllegalState(f"{split.holder} splits {model.name}:{wish.alias}; end it first")
    await check_unclaimed(session, wish.model, wish.alias)
    present, new = _present(model, wish.alias), model.version(wish.to_version, field="to_version")
    if present.number == new.number:
        raise InvalidArgument(_is_already(model, wish.alias, new), field="to_version")
    replicas = max(1, present.desired_replicas, new.desired_replicas)
    replicas = replicas if new.upstream is None else 1
    if replicas != new.desired_replicas or new.ready_replicas < replicas:
        await put_desired_replicas(session, new, replicas)
    return Rollout(
        rollout_id=rollout_id,
        wish=wish,
        from_version=present.number,
        created_at=now,
        step_at=now,
        replicas=replicas,
        previous_replicas=new.desired_replicas,
    )


async def _taken_over(session: Session, rollout: Rollout) -> Rollout:
    """The rollout with what the end of an earlier one has left to do with its new version."""
    for earlier in await queries.read_active(session):
        same = earlier.wish.model == rollout.wish.model
        if same and earlier.state in ENDED and left_version(earlier) == rollout.wish.to_version:
            await queries.put(session, replace(earlier, released=True))
            rollout = replace(rollout, previous_replicas=replicas_before(earlier, rollout))
    return rollout


def _present(model: Model, alias: str) -> Version:
    """The version that an alias refers to. Raises: ModelNotFound."""
    if alias == DEFAULT_ALIAS and model.versions:
        return model.version(model.default_version)
    return model.version(model.aliased(alias))


def _is_already(model: Model, alias: str, version: Version) -> str:
    if alias in model.aliases:
        return f"{model.name}:{alias} is version {version.number} already"
    return (
        f"{model.name} has no alias {alias}, so it means {version.label}, its newest loaded"
        " version; set the alias first to the version to move from"
    )


async def _put(session: Session, rollout: Rollout, change: Change) -> None:
    """Stores a rollout with the change that led to it, and what its alias refers to."""
    await queries.put(session, rollout)
    await queries.put_change(session, rollout, change)
    name, alias = rollout.wish.model, rollout.wish.alias
    await catalogue_queries.put_alias(session, name, alias, rollout.alias_version)
    if rollout.split is None:
        await catalogue_queries.delete_split(session, name, alias)
    else:
        await catalogue_queries.put_split(session, name, alias, rollout.split)


def _repeated(known: Rollout, wish: Wish) -> Rollout:
    if known.wish != wish:
        raise IllegalState(f"{known.label} exists with other arguments; choose another rollout_id")
    return known


def _found(rollout: Rollout | None, rollout_id: str) -> Rollout:
    if rollout is None:
        raise RolloutNotFound(
            f"there is no rollout {rollout_id}; list the rollouts to see which",
            field="rollout_id",
        )
    return rollout


def _check_ready(model: Model | None, rollout: Rollout) -> None:
    """Raises: IllegalState unless the new version is loaded."""
    version = model.version(rollout.wish.to_version) if model is not None else None
    if version is None or not version.ready_replicas:
        label = f"{rollout.wish.model}@{rollout.wish.to_version}"
        raise IllegalState(f"{label} has no ready replica yet; wait for it, or abort")
