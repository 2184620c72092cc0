"""Experiments in both databases: starting, recording, scoring, analyzing, ending."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mlxmesh_model.catalogue import queries as catalogue
from mlxmesh_model.catalogue.models import Artifact, Phase, Replica
from mlxmesh_model.catalogue.routing import Arm, Split, Subject
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.experiments.analysis import analyze
from mlxmesh_model.experiments.controller import ExperimentController
from mlxmesh_model.experiments.convert import to_event
from mlxmesh_model.experiments.experiment import Plan, State
from mlxmesh_model.experiments.metrics import Metric
from mlxmesh_model.experiments.recording import Recording
from mlxmesh_model.experiments.store import Experiments
from mlxmesh_model.outcomes.outcome import Status
from mlxmesh_model.outcomes.recorder import Recorder
from mlxmesh_model.rollouts.rollout import Wish
from mlxmesh_model.rollouts.store import RolloutStore
from mlxmesh_shared.errors import (
    ExperimentNotFound,
    IllegalState,
    InvalidArgument,
    ModelNotFound,
    OutcomeNotFound,
    ScoreExists,
)
from mlxmesh_shared.reference import ModelReference
from tests.fakes.outcomes import ENDED, outcome

ARMS = (Arm("old", 1, 50), Arm("new", 2, 50))
PLAN = Plan("pocket", "default", Subject.SESSION, ARMS, "a faster one?")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Rig:
    """A catalogue with a model of two versions, and what is about its experiments."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.changes: list[str] = []
        self.experiments = Experiments(store, on_change=self._changed, clock=lambda: NOW)
        self.now = NOW
        self.recording = Recording(store, clock=lambda: self.now)
        self.recorder = Recorder(store, [self.recording.consume])
        self.controller = ExperimentController(store, self.experiments)
        self.batch = 0

    def _changed(self, before, after) -> None:
        event = to_event(before, after)
        if event is not None:
            self.changes.append(type(event).__name__)

    async def register(self, versions: int = 2) -> None:
        for number in range(1, versions + 1):
            digest = f"{number:064d}"
            artifact = Artifact(f"/models/{number}", digest, "llama", 1, 1, "float32", 64, 256)
            await self.store.register("pocket", artifact)

    async def make_ready(self, number: int) -> None:
        """As the reconciler does once an engine of the version runs."""
        version = (await self.store.model("pocket")).version(number)
        replicas = (Replica(f"engine-{number}", "runtime", Phase.READY),)
        assert await self.store.record(version.with_replicas(replicas, None))

    async def start_running(self, plan: Plan = PLAN):
        started = await self.experiments.start(plan)
        for arm in plan.arms:
            await self.make_ready(arm.version)
        await self.controller.advance(NOW)
        return await self.experiments.get(started.experiment_id)

    async def record(self, *outcomes) -> None:
        self.batch += 1
        await self.recorder.record("generation-1", self.batch, outcomes)


@pytest.fixture
async def rig(database):
    store = await Store.open(database)
    rig = Rig(store)
    await rig.register()
    yield rig
    await store.close()


async def test_versions_are_loaded_before_the_alias_is_split(rig):
    started = await rig.experiments.start(PLAN)
    assert started.state is State.PREPARING
    assert started.reason == "pocket@1 is being loaded"
    model = await rig.store.model("pocket")
    assert [version.desired_replicas for version in model.versions] == [1, 1]
    assert model.splits == {}
    await rig.make_ready(1)
    await rig.controller.advance(NOW)
    waiting = await rig.experiments.get(started.experiment_id)
    assert (waiting.state, waiting.reason) == (State.PREPARING, "pocket@2 is being loaded")
    await rig.make_ready(2)
    await rig.controller.advance(NOW)
    running = await rig.experiments.get(started.experiment_id)
    assert (running.state, running.reason) == (State.RUNNING, "")
    [split] = (await rig.store.model("pocket")).splits.values()
    assert split == running.split
    assert split.experiment_id == started.experiment_id
    assert rig.changes == ["ExperimentStarted", "ExperimentRunning"]


async def test_ready_versions_are_split_at_once(rig):
    await rig.experiments.stop((await rig.start_running()).experiment_id)
    again = await rig.experiments.start(PLAN)
    assert again.state is State.RUNNING
    assert set((await rig.store.model("pocket")).splits) == {"default"}


async def test_advancing_what_waits_writes_nothing(rig):
    await rig.experiments.start(PLAN)
    before = await rig.store.sequence()
    for _ in range(3):
        await rig.controller.advance(NOW)
    assert await rig.store.sequence() == before


async def test_an_unloaded_version_is_named(rig):
    started = await rig.experiments.start(PLAN)
    await rig.store.set_desired_replicas(ModelReference.parse("pocket@2"), replicas=0)
    await rig.make_ready(1)
    await rig.controller.advance(NOW)
    waiting = await rig.experiments.get(started.experiment_id)
    assert waiting.reason == "pocket@2 was unloaded; load it, or stop the experiment"


async def test_its_versions_are_needed_before_they_are_split(rig):
    assert await rig.experiments.needed() == frozenset()
    started = await rig.experiments.start(PLAN)
    assert await rig.experiments.needed() == {"pocket@1", "pocket@2"}
    await rig.experiments.stop(started.experiment_id)
    assert await rig.experiments.needed() == frozenset()
    await rig.start_running()
    assert await rig.experiments.needed() == frozenset()
    assert (await rig.store.model("pocket")).routed_versions == {1, 2}


async def test_another_split_refuses_and_comes_first(rig):
    running = await rig.start_running()
    with pytest.raises(IllegalState, match=running.experiment_id):
        await rig.experiments.start(PLAN)
    await rig.experiments.stop(running.experiment_id)
    await rig.register(3)
    waiting = await rig.experiments.start(replace(PLAN, arms=(Arm("a", 1, 50), Arm("b", 3, 50))))
    with pytest.raises(IllegalState, match="is about to split pocket:default"):
        await rig.experiments.start(PLAN)
    async with rig.store.changing("pocket") as (session, _):
        other = Split(ARMS, "salt", Subject.REQUEST, rollout_id="r-1")
        await catalogue.put_split(session, "pocket", "default", other)
    await rig.controller.advance(NOW)
    ended = await rig.experiments.get(waiting.experiment_id)
    assert (ended.state, ended.reason) == (
        State.STOPPED,
        "rollout r-1 split pocket:default first",
    )
    assert (await rig.store.model("pocket")).splits == {"default": other}


async def test_a_rollout_and_an_experiment_never_take_each_others_alias(rig):
    def wish(alias: str) -> Wish:
        return Wish("pocket", alias, 2, (50, 100), 60, (), 20)

    rollouts = RolloutStore(rig.store)
    for alias in ("default", "stable"):
        await rig.store.set_alias("pocket", alias, 1)
    await rig.experiments.start(PLAN, "waiting")
    with pytest.raises(IllegalState, match="experiment waiting is about to split pocket:default"):
        await rollouts.start("r-1", wish("default"), now=NOW, principal="#ada")
    await rollouts.start("r-1", wish("stable"), now=NOW, principal="#ada")
    with pytest.raises(IllegalState, match="rollout r-1 splits pocket:stable"):
        await rig.experiments.start(replace(PLAN, alias="stable"))
    await rig.experiments.stop("waiting")
    await rollouts.start("r-2", wish("default"), now=NOW, principal="#ada")
    with pytest.raises(IllegalState, match="rollout r-2 splits pocket:default"):
        await rig.experiments.start(PLAN)


async def test_starting_twice_with_an_id_starts_one(rig):
    first = await rig.experiments.start(PLAN, "mine")
    assert await rig.experiments.start(PLAN, "mine") == first
    with pytest.raises(IllegalState, match="another plan"):
        await rig.experiments.start(replace(PLAN, description="other"), "mine")


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"model": "gone"}, ModelNotFound, "name"),
        ({"alias": "gone"}, ModelNotFound, "alias"),
        ({"arms": (Arm("a", 1, 50), Arm("b", 9, 50))}, ModelNotFound, "arms[1].version"),
        ({"subject": Subject.REQUEST}, InvalidArgument, "subject"),
        ({"arms": (Arm("a", 1, 50), Arm("b", 2, 40))}, InvalidArgument, "arms"),
    ],
)
async def test_what_cannot_be_compared_is_refused_and_leaves_nothing(rig, change, error, field):
    with pytest.raises(error) as raised:
        await rig.experiments.start(replace(PLAN, **change))
    assert raised.value.field == field
    assert await rig.experiments.page(limit=10) == []
    model = await rig.store.model("pocket")
    assert [version.desired_replicas for version in model.versions] == [0, 0]


async def test_the_winner_gets_the_alias(rig):
    running = await rig.start_running()
    with pytest.raises(InvalidArgument, match="the arms are old, new"):
        await rig.experiments.stop(running.experiment_id, "newest")
    stopped = await rig.experiments.stop(running.experiment_id, "new")
    assert (stopped.state, stopped.ended_at) == (State.STOPPED, NOW)
    model = await rig.store.model("pocket")
    assert (model.splits, model.aliases) == ({}, {"default": 2})
    with pytest.raises(IllegalState, match="has ended"):
        await rig.experiments.stop(running.experiment_id)
    assert rig.changes[-1] == "ExperimentStopped"


async def test_without_a_winner_the_alias_stays(rig):
    await rig.store.set_alias("pocket", "default", 1)
    running = await rig.start_running()
    with pytest.raises(IllegalState, match="splits pocket:default"):
        await rig.store.set_alias("pocket", "default", 2)
    await rig.experiments.stop(running.experiment_id)
    assert (await rig.store.model("pocket")).aliases == {"default": 1}


async def test_pages_are_newest_first(rig):
    started = []
    for number in range(5):
        experiment = await rig.experiments.start(PLAN, f"e-{number}")
        await rig.experiments.stop(experiment.experiment_id)
        started.append(experiment.experiment_id)
    first = await rig.experiments.page(limit=2)
    rest = await rig.experiments.page(before=first[-1].number, limit=10)
    assert [each.experiment_id for each in [*first, *rest]] == started[::-1]
    assert await rig.experiments.page(model="other", limit=10) == []
    assert len(await rig.experiments.page(model="pocket", limit=10)) == 5
    with pytest.raises(ExperimentNotFound):
        await rig.experiments.get("gone")


async def test_outcomes_reach_the_analysis(rig):
    running = await rig.start_running()
    key = running.experiment_id

    def of(at: int):
        arm = ARMS[at % 2]
        return outcome(
            f"r-{at}",
            version=arm.version,
            arm=arm.name,
            experiment_id=key,
            subject=at // 2 * 2 + at % 2,
            ttft_ms=(100.0 if at % 2 else 150.0) + at % 17,
            status=Status.FAILED if at % 50 == 0 else Status.COMPLETED,
        )

    outcomes = [of(at) for at in range(1200)]
    await rig.record(*outcomes[:700])
    await rig.record(*outcomes[700:], outcome("other"), outcome("forged", experiment_id="gone"))
    await rig.recorder.record("generation-1", rig.batch, outcomes)  # repeated
    recorded = await rig.experiments.recorded(key)
    assert recorded.experiment.counts.requests == {"old": 600, "new": 600}
    assert recorded.experiment.counts.subjects == {"old": 600, "new": 600}
    results = analyze(recorded.experiment, recorded.records, recorded.courses, alpha=0.05)
    ttft = next(result for result in results if result.metric is Metric.TTFT)
    second = ttft.arms[1]
    assert second.significant
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(-50, abs=1)
    assert [values for values, _ in second.course] == [350, 600]
    errors = next(result for result in results if result.metric is Metric.ERROR)
    assert [arm.mean.mean for arm in errors.arms] == [pytest.approx(0.04), 0]


async def test_subjects_are_known_over_batches(rig):
    running = await rig.start_running()
    for at in range(6):
        await rig.record(
            outcome(f"r-{at}", arm="old", experiment_id=running.experiment_id, subject=at % 2)
        )
    recorded = await rig.experiments.recorded(running.experiment_id)
    summary = recorded.records[Metric.TTFT].summaries()["old"]
    assert (summary.count, summary.subjects) == (6, 2)
    assert recorded.experiment.counts.subjects == {"old": 2}


async def test_a_score_counts_once_for_its_owner_alone(rig):
    running = await rig.start_running()
    await rig.record(outcome("r-1", arm="new", experiment_id=running.experiment_id, subject=1))
    with pytest.raises(OutcomeNotFound):
        await rig.recording.report_score("#eve", "r-1", 1.0)
    with pytest.raises(OutcomeNotFound):
        await rig.recording.report_score("#ada", "r-2", 1.0)
    for _ in range(2):
        scored = await rig.recording.report_score("#ada", "r-1", 0.8)
        assert (scored.experiment_id, scored.arm) == (running.experiment_id, "new")
    with pytest.raises(ScoreExists) as raised:
        await rig.recording.report_score("#ada", "r-1", 0.9)
    assert raised.value.field == "score"
    recorded = await rig.experiments.recorded(running.experiment_id)
    summary = recorded.records[Metric.SCORE].summaries()["new"]
    assert (summary.count, summary.mean) == (1, 0.8)


async def stored_requests(rig: Rig) -> list[str]:
    async with rig.store.transactions.write() as session:
        rows = await session.fetch("SELECT request_id FROM scorable_requests ORDER BY ended_at")
        return [row["request_id"] for row in rows]


async def test_requests_of_no_experiment_are_neither_stored_nor_scored(rig):
    await rig.record(
        outcome("r-1", arm="canary", rollout_id="r-9"),
        outcome("r-2"),
        outcome("r-3", arm="new", experiment_id="gone"),
    )
    assert await stored_requests(rig) == []
    with pytest.raises(OutcomeNotFound, match="it belongs to no experiment") as raised:
        await rig.recording.report_score("#ada", "r-1", -3.5)
    assert raised.value.field == "request_id"


async def test_the_number_of_stored_requests_is_bounded_between_two_removals(rig):
    key = (await rig.start_running()).experiment_id
    rig.recording = Recording(rig.store, clock=lambda: NOW, max_requests=20)
    rig.recorder = Recorder(rig.store, [rig.recording.consume])
    for at in range(50):
        moment = NOW + timedelta(seconds=at)
        await rig.record(
            outcome(f"r-{at}", arm="old", experiment_id=key, subject=at, end_time=moment)
        )
        assert len(await stored_requests(rig)) <= 22
    assert (await stored_requests(rig))[-20:] == [f"r-{at}" for at in range(30, 50)]
    assert (await rig.experiments.get(key)).counts.requests == {"old": 50}


async def test_outcomes_and_scores_after_the_end_count(rig):
    running = await rig.start_running()
    await rig.experiments.stop(running.experiment_id)
    await rig.record(outcome("r-1", arm="new", experiment_id=running.experiment_id, subject=1))
    await rig.recording.report_score("#ada", "r-1", 1.0)
    recorded = await rig.experiments.recorded(running.experiment_id)
    assert recorded.experiment.counts.requests == {"new": 1}
    assert recorded.experiment.state is State.STOPPED
    assert Metric.SCORE in recorded.records


async def test_old_requests_and_subjects_are_removed(rig):
    running = await rig.start_running()
    key = running.experiment_id
    every = [
        outcome(f"r-{at}", arm="old", experiment_id=key, subject=at, end_time=ENDED) for at in "ab"
    ]
    late = ENDED + timedelta(days=5)
    of_late = outcome("r-late", arm="old", experiment_id=key, subject="c", end_time=late)
    await rig.record(*every, of_late)
    await rig.experiments.stop(key)
    await rig.experiments.prune(ENDED + timedelta(days=8))
    with pytest.raises(OutcomeNotFound):
        await rig.recording.report_score("#ada", "r-a", 1.0)
    assert await stored_requests(rig) == ["r-late"]
    async with rig.store.transactions.write() as session:
        rows = await session.fetch("SELECT * FROM experiment_subjects")
    assert rows == []
    assert await rig.recording.report_score("#ada", "r-late", 1.0)
    assert (await rig.experiments.recorded(key)).experiment.counts.requests == {"old": 3}


async def test_a_bounded_number_of_requests_and_subjects_is_kept(rig):
    from mlxmesh_model.experiments import queries

    key = (await rig.start_running()).experiment_id
    for at in range(6):
        moment = NOW + timedelta(seconds=at)
        rig.now = moment
        await rig.record(
            outcome(f"r-{at}", arm="old", experiment_id=key, subject=at, end_time=moment)
        )
    async with rig.store.transactions.write() as session:
        await queries.prune_requests(session, before=ENDED, most=4)
        await queries.prune_subjects(session, ended_before=ENDED, most=3)
        kept = await session.fetch("SELECT request_id FROM scorable_requests ORDER BY request_id")
        subjects = await session.fetch("SELECT subject FROM experiment_subjects")
    assert [row["request_id"] for row in kept] == ["r-2", "r-3", "r-4", "r-5"]
    assert len(subjects) == 3


async def test_a_thousand_outcomes_are_one_batch(rig):
    key = (await rig.start_running()).experiment_id
    await rig.record(
        *(outcome(f"r-{at}", arm="old", experiment_id=key, subject=at) for at in range(1000))
    )
    assert (await rig.experiments.get(key)).counts.subjects == {"old": 1000}
