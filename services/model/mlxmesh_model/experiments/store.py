"""Experiments in the catalogue: starting, ending and reading them."""

import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from mlxmesh_model.catalogue import lifecycle
from mlxmesh_model.catalogue import queries as catalogue
from mlxmesh_model.catalogue.lifecycle import Action
from mlxmesh_model.catalogue.models import DEFAULT_ALIAS, Model, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.experiments import queries
from mlxmesh_model.experiments.analysis import Point
from mlxmesh_model.experiments.experiment import (
    Experiment,
    Plan,
    State,
    check_plan,
    waits_for,
)
from mlxmesh_model.experiments.metrics import Metric
from mlxmesh_model.experiments.recording import KEPT, MAX_REQUESTS
from mlxmesh_model.experiments.tally import Record
from mlxmesh_shared.errors import (
    ExperimentNotFound,
    IllegalState,
    InvalidArgument,
    ModelNotFound,
)
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

KEPT_SUBJECTS = timedelta(days=7)
"""How long after its end an experiment knows its subjects."""
MAX_SUBJECTS = 100_000
"""How many subjects of an experiment are kept; one that was removed counts as new."""
_NO_LIMIT = 2**31 - 1

OnChange = Callable[[Experiment | None, Experiment], None]
"""Called with an experiment before and after its state changed."""


def _ignore(before: Experiment | None, after: Experiment) -> None:
    pass


def _nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """An experiment with all that was recorded of it."""

    experiment: Experiment
    records: Mapping[Metric, Record]
    courses: Mapping[Metric, Sequence[Point]]


class Experiments:
    """Every change of an experiment, its split and its versions is one transaction."""

    def __init__(
        self,
        store: Store,
        *,
        wake_reconciler: Callable[[], None] = _nothing,
        on_change: OnChange = _ignore,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._wake_reconciler = wake_reconciler
        self._on_change = on_change
        self._clock = clock

    @property
    def transactions(self) -> Transactions:
        return self._store.transactions

    # Reading.

    @uncancellable
    async def get(self, experiment_id: str) -> Experiment:
        """Raises: ExperimentNotFound."""
        return await self.transactions.read(partial(_find, experiment_id=experiment_id))

    @uncancellable
    async def page(
        self, *, model: str = "", before: int | None = None, limit: int
    ) -> list[Experiment]:
        """The newest experiments with a number below `before`, of one model or of all."""
        below = _NO_LIMIT if before is None else before
        return await self.transactions.read(
            partial(queries.read_page, model=model, before=below, limit=limit)
        )

    @uncancellable
    async def recorded(self, experiment_id: str) -> Recorded:
        """Raises: ExperimentNotFound."""

        async def read(session: Session) -> Recorded:
            experiment = await _find(session, experiment_id)
            records = await queries.read_records(session, experiment_id)
            courses = await queries.read_courses(session, experiment_id)
            return Recorded(experiment, records, courses)

        return await self.transactions.read(read)

    # Changing.

    @uncancellable
    async def start(self, plan: Plan, experiment_id: str = "") -> Experiment:
        """Starts an experiment, and loads its versions; one with the same id and plan is returned.

        Raises: InvalidArgument, ModelNotFound, IllegalState.
        """
        check_plan(plan)
        experiment_id = experiment_id or f"e-{secrets.token_hex(6)}"
        async with self._store.changing(plan.model) as (session, model):
            known = await queries.find(session, experiment_id)
            if known is not None:
                return _same(known, plan)
            await _check_start(session, model, plan)
            for version in _versions(model, plan):
                await _load(session, version)
            now = self._clock()
            number = await queries.next_number(session)
            started = Experiment(experiment_id, plan, State.PREPARING, now, number)
            loading = await catalogue.find_model(session, plan.model)
            experiment = _advanced(loading, started)
            await _put(session, experiment)
        self._on_change(None, experiment)
        self._wake_reconciler()
        return experiment

    @uncancellable
    async def stop(self, experiment_id: str, winner: str = "") -> Experiment:
        """Ends an experiment; the alias then refers to the winner's version, or to its own.

        Raises: ExperimentNotFound, InvalidArgument, IllegalState once it has ended.
        """
        async with self._changing(experiment_id) as (session, model, experiment):
            if experiment.state is State.STOPPED:
                raise IllegalState(f"experiment {experiment_id} has ended")
            arms = {arm.name: arm for arm in experiment.plan.arms}
            if winner and winner not in arms:
                raise InvalidArgument(
                    f"there is no arm {winner}; the arms are {', '.join(arms)}", field="winner"
                )
            stopped = await self._end(session, experiment)
            if winner and model is not None:
                plan, version = experiment.plan, arms[winner].version
                await catalogue.put_alias(session, plan.model, plan.alias, version)
        self._on_change(experiment, stopped)
        return stopped

    @uncancellable
    async def preparing(self) -> list[Experiment]:
        """The experiments that wait for their versions."""
        read = partial(queries.read_in_state, state=State.PREPARING)
        return await self.transactions.read(read)

    async def needed(self) -> frozenset[str]:
        """The labels of the versions that experiments wait for or with; no split names them yet."""
        return frozenset(
            f"{waiting.plan.model}@{arm.version}"
            for waiting in await self.preparing()
            for arm in waiting.plan.arms
        )

    @uncancellable
    async def try_begin(self, experiment_id: str) -> Experiment:
        """The experiment, which runs if its versions are ready, and has ended if it cannot run."""
        async with self._changing(experiment_id) as (session, model, experiment):
            if experiment.state is not State.PREPARING:
                return experiment
            reason = _obstacle(model, experiment)
            if reason:
                changed = await self._end(session, experiment, reason)
            elif (changed := _advanced(model, experiment)) != experiment:
                await _put(session, changed)
        if changed.state is not experiment.state:
            self._on_change(experiment, changed)
        return changed

    @uncancellable
    async def prune(self, now: datetime) -> None:
        """Removes what was kept long enough."""
        async with self.transactions.write() as session:
            await queries.prune_requests(session, before=now - KEPT, most=MAX_REQUESTS)
            await queries.prune_subjects(
                session, ended_before=now - KEPT_SUBJECTS, most=MAX_SUBJECTS
            )

    @asynccontextmanager
    async def _changing(
        self, experiment_id: str
    ) -> AsyncGenerator[tuple[Session, Model | None, Experiment]]:
        """A transaction on an experiment and its model, with both as they are."""
        known = await self.transactions.read(partial(_find, experiment_id=experiment_id))
        async with self._store.changing(known.plan.model) as (session, model):
            yield session, model, await _find(session, experiment_id)

    async def _end(self, session: Session, experiment: Experiment, reason: str = "") -> Experiment:
        now, plan = self._clock(), experiment.plan
        if experiment.state is State.RUNNING:
            await catalogue.delete_split(session, plan.model, plan.alias)
        await queries.end(session, experiment, now=now, reason=reason)
        return replace(experiment, state=State.STOPPED, ended_at=now, reason=reason)


async def _find(session: Session, experiment_id: str) -> Experiment:
    experiment = await queries.find(session, experiment_id)
    if experiment is None:
        raise ExperimentNotFound(
            f"there is no experiment {experiment_id}; `mlxmesh experiment list` shows those there"
            " are",
            field="experiment_id",
        )
    return experiment


def _same(known: Experiment, plan: Plan) -> Experiment:
    if known.plan != plan:
        raise IllegalState(
            f"there is an experiment {known.experiment_id} with another plan; choose another id"
        )
    return known


async def _check_start(session: Session, model: Model | None, plan: Plan) -> None:
    """Raises: ModelNotFound; IllegalState while something else splits the alias."""
    name = f"{plan.model}:{plan.alias}"
    if model is None:
        raise ModelNotFound(
            f"there is no model {plan.model}; list the models to see which", field="name"
        )
    if plan.alias != DEFAULT_ALIAS or model.ensemble:
        model.aliased(plan.alias)
    if plan.alias in model.splits:
        raise IllegalState(f"{model.splits[plan.alias].holder} splits {name}; end it first")
    await queries.check_unclaimed(session, plan.model, plan.alias)


def _versions(model: Model | None, plan: Plan) -> list[Version]:
    """Raises: ModelNotFound."""
    if model is None:
        return []
    return [
        model.version(arm.version, field=f"arms[{at}].version") for at, arm in enumerate(plan.arms)
    ]


async def _load(session: Session, version: Version) -> None:
    """Makes one replica desired, unless more are. Raises: IllegalState if it cannot be loaded."""
    if version.desired_replicas:
        return
    state = lifecycle.next_state(version.state, Action.LOAD, subject=version.label)
    loading = replace(
        version, state=state, desired_replicas=1, intent=version.intent + 1, failure=None
    )
    await catalogue.put_version(session, loading)


def _obstacle(model: Model | None, experiment: Experiment) -> str:
    """Why an experiment cannot run; empty if it can, now or later."""
    plan = experiment.plan
    if model is None:
        return f"model {plan.model} was deleted"
    if plan.alias in model.splits:
        return f"{model.splits[plan.alias].holder} split {plan.model}:{plan.alias} first"
    known = {version.number for version in model.versions}
    missing = [arm.version for arm in plan.arms if arm.version not in known]
    return f"{plan.model}@{missing[0]} was deleted" if missing else ""


def _advanced(model: Model | None, experiment: Experiment) -> Experiment:
    """The experiment, which runs once every version is ready; else it says what it waits for."""
    reason = waits_for(experiment.plan, model) if model is not None else ""
    return replace(experiment, state=State.PREPARING if reason else State.RUNNING, reason=reason)


async def _put(session: Session, experiment: Experiment) -> None:
    await queries.put(session, experiment)
    if experiment.state is State.RUNNING:
        plan = experiment.plan
        await catalogue.put_split(session, plan.model, plan.alias, experiment.split)
