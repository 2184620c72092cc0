"""Rollouts on both databases: what the alias refers to, and what is loaded, at every step."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from mlxmesh.model.v1 import rollout_pb2 as pb
from mlxmesh_model.rollouts.machine import Action
from mlxmesh_model.rollouts.queries import position
from mlxmesh_model.rollouts.rollout import Guard, Metric, Rollout, State
from mlxmesh_model.rollouts.servicer import RolloutServicer
from mlxmesh_shared.errors import IllegalState, InvalidArgument, ModelNotFound, RolloutNotFound
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.rollouts import NO_MEMORY, outcome, wish
from tests.integration.model.rollout_rig import RolloutRig, rollout_rig


@pytest.fixture
async def rig(database: DatabaseUrl) -> AsyncGenerator[RolloutRig]:
    async with rollout_rig(database) as rig:
        await rig.register()
        yield rig


async def test_a_good_version_is_promoted_and_the_present_one_unloaded(rig: RolloutRig):
    rollout = await rig.start()
    assert (rollout.state, await rig.weight()) == (State.PREPARING, 0)
    assert (await rig.version(2)).desired_replicas == 1
    assert (await rig.step(3600)).state is State.PREPARING
    await rig.reconcile()
    weights: list[int | None] = []
    while (rollout := await rig.step(601)).state is State.PROGRESSING:
        weights.append(await rig.weight())
        await rig.serve(20)
    assert weights == [1, 10, 50, 100]
    assert rollout.state is State.PROMOTED
    assert await rig.weight() is None
    assert (await rig.version(1)).desired_replicas == 1
    await rig.step(31)
    assert (await rig.version(1)).desired_replicas == 0
    history = await rig.rollouts.store.history("r-1")
    assert [(change.state, change.weight) for change in history] == [
        (State.PREPARING, 0),
        *((State.PROGRESSING, weight) for weight in (1, 10, 50, 100)),
        (State.PROMOTED, 100),
    ]
    assert [change.principal for change in history] == ["user:ada"] + [""] * 5
    assert rig.event_names == ["rollout.started"] + ["rollout.stepped"] * 4 + ["rollout.promoted"]


async def test_errors_roll_back_before_the_hold_ends(rig: RolloutRig):
    await rig.begin()
    await rig.serve(90, 10)
    rollout = await rig.step(1)
    assert rollout.state is State.ROLLED_BACK
    assert await rig.weight() is None
    assert (await rig.model()).aliases == {"default": 1}
    change = (await rig.rollouts.store.history("r-1"))[-1]
    assert change.reason == "error_rate<1% is broken: 10% for certain"
    assert [reading.value for reading in change.readings] == [0.1]
    assert (await rig.version(2)).desired_replicas == 1
    await rig.step(31)
    assert (await rig.version(2)).desired_replicas == 0
    assert rig.event_names[-1] == "rollout.rolled_back"


async def test_a_failed_load_rolls_back(rig: RolloutRig):
    await rig.start()
    await rig.reconcile(NO_MEMORY)
    rollout = await rig.step()
    assert rollout.state is State.ROLLED_BACK
    change = (await rig.rollouts.store.history("r-1"))[-1]
    assert NO_MEMORY.message in change.reason
    await rig.step(31)
    assert (await rig.version(2)).desired_replicas == 0


async def test_slow_answers_are_judged_at_the_end_against_the_present_version(rig: RolloutRig):
    await rig.begin(wish(guards=(Guard(Metric.TTFT_P95, 1.2, relative=True),)))
    slow = [outcome(n, ttft_ms=130.0) for n in range(50)]
    fast = [outcome(n, version=1, arm="present", ttft_ms=100.0) for n in range(50)]
    await rig.recorder.record("generation-2", 1, slow + fast)
    assert (await rig.step(1)).state is State.PROGRESSING
    assert (await rig.step(600)).state is State.ROLLED_BACK


async def test_at_100_percent_it_is_compared_with_the_step_before(rig: RolloutRig):
    await rig.begin(
        wish(steps=(50, 100), guards=(Guard(Metric.TOKENS_PER_REQUEST, 0.9, True, True),))
    )
    await rig.serve(30)
    await rig.serve(30, version=1)
    assert (await rig.step(601)).weight == 100
    await rig.serve(30)
    observed = await rig.rollouts.store.observe(await rig.get())
    assert (observed.new.requests, observed.present.requests) == (30, 30)
    assert (await rig.step(601)).state is State.PROMOTED


async def test_too_few_requests_extend_a_step(rig: RolloutRig):
    await rig.begin()
    await rig.serve(19)
    assert (await rig.step(10_000)).step == 0
    await rig.serve(1)
    assert (await rig.step()).step == 1


async def test_a_batch_counts_once(rig: RolloutRig):
    await rig.begin()
    for _ in range(3):
        await rig.recorder.record("generation-1", 7, [outcome(n) for n in range(5)])
    assert (await rig.rollouts.store.observe(await rig.get())).new.requests == 5


async def test_pause_keeps_the_weights_and_resume_begins_the_step_again(rig: RolloutRig):
    await rig.begin()
    await rig.serve(15)
    await rig.ask(Action.PAUSE)
    await rig.ask(Action.PAUSE)
    await rig.serve(15)
    assert (await rig.step(10_000)).state is State.PAUSED
    assert await rig.weight() == 1
    await rig.ask(Action.RESUME)
    assert (await rig.rollouts.store.observe(await rig.get())).new.requests == 0
    await rig.serve(20)
    assert (await rig.step(599)).step == 0
    assert (await rig.step(2)).step == 1
    names = ["rollout.paused", "rollout.resumed", "rollout.stepped"]
    assert rig.event_names[-3:] == names


async def test_a_paused_rollout_is_rolled_back_by_a_guard(rig: RolloutRig):
    await rig.begin()
    await rig.ask(Action.PAUSE)
    await rig.serve(10, 10)
    assert (await rig.step()).state is State.ROLLED_BACK


async def test_abort_sets_the_alias_back(rig: RolloutRig):
    await rig.begin()
    rollout = await rig.ask(Action.ABORT, "key:k_1")
    assert (rollout.state, await rig.weight()) == (State.ABORTED, None)
    assert await rig.ask(Action.ABORT) == rollout
    with pytest.raises(IllegalState, match="cannot promote rollout r-1: it is ABORTED"):
        await rig.ask(Action.PROMOTE)
    assert (await rig.rollouts.store.history("r-1"))[-1].principal == "key:k_1"


async def test_promote_needs_a_loaded_version(rig: RolloutRig):
    await rig.start()
    with pytest.raises(IllegalState, match="chat@2 has no ready replica yet"):
        await rig.ask(Action.PROMOTE)
    await rig.reconcile()
    assert (await rig.ask(Action.PROMOTE)).state is State.PROMOTED
    assert (await rig.model()).aliases == {"default": 2}


async def test_the_new_version_gets_as_many_replicas_as_the_present_one(rig: RolloutRig):
    await rig.store.set_alias("chat", "default", 1)
    await rig.store.set_desired_replicas(ModelReference.parse("chat@1"), replicas=3)
    await rig.store.set_desired_replicas(ModelReference.parse("chat@2"), replicas=1)
    await rig.reconcile()
    await rig.start()
    assert (await rig.version(2)).desired_replicas == 3
    await rig.ask(Action.ABORT)
    await rig.step(31)
    assert (await rig.version(2)).desired_replicas == 1


async def test_what_somebody_changed_since_stays(rig: RolloutRig):
    await rig.begin()
    await rig.store.set_desired_replicas(ModelReference.parse("chat@2"), replicas=2)
    await rig.ask(Action.ABORT)
    await rig.step(31)
    assert (await rig.version(2)).desired_replicas == 2


async def test_a_version_with_another_alias_stays_loaded(rig: RolloutRig):
    await rig.store.set_alias("chat", "stable", 1)
    await rig.begin()
    await rig.ask(Action.PROMOTE)
    await rig.step(31)
    assert (await rig.version(1)).desired_replicas == 1
    assert (await rig.get()).released


@pytest.mark.parametrize("action", [Action.PROMOTE, Action.ABORT])
async def test_a_version_with_sequences_stays_loaded_until_they_end(
    rig: RolloutRig, action: Action
):
    number = 1 if action is Action.PROMOTE else 2
    await rig.begin()
    await rig.ask(action)
    assert not (await rig.step(29)).released
    rig.in_use.add(f"chat@{number}")
    assert not (await rig.step(600)).released
    assert (await rig.version(number)).desired_replicas == 1
    rig.in_use.clear()
    assert (await rig.step(1)).released
    assert (await rig.version(number)).desired_replicas == 0


async def test_a_version_that_is_never_unused_is_unloaded_after_an_hour(rig: RolloutRig):
    await rig.begin()
    await rig.ask(Action.PROMOTE)
    rig.in_use.add("chat@1")
    assert not (await rig.step(3599)).released
    assert (await rig.step(1)).released
    assert (await rig.version(1)).desired_replicas == 0


async def start_again(rig: RolloutRig, to_version: int) -> Rollout:
    return await rig.rollouts.store.start(
        "r-2", wish(to_version=to_version), now=rig.clock(), principal="user:ada"
    )


async def test_a_second_attempt_takes_over_what_the_first_left(rig: RolloutRig):
    await rig.store.set_desired_replicas(ModelReference.parse("chat@1"), replicas=3)
    await rig.begin()
    await rig.ask(Action.ABORT)
    again = await start_again(rig, 2)
    assert (again.replicas, again.previous_replicas) == (3, 0)
    await rig.step(31)
    assert (await rig.get()).released
    assert (await rig.version(2)).desired_replicas == 3
    await rig.rollouts.store.ask("r-2", Action.ABORT, now=rig.clock(), principal="")
    await rig.step(31)
    assert (await rig.version(2)).desired_replicas == 0


@pytest.mark.parametrize(("end", "kept"), [(Action.ABORT, {2}), (Action.PROMOTE, {1})])
async def test_a_way_back_right_after_a_promotion(rig: RolloutRig, end: Action, kept: set[int]):
    await rig.begin()
    await rig.ask(Action.PROMOTE)
    await start_again(rig, 1)
    await rig.step(31)
    await rig.rollouts.store.ask("r-2", end, now=rig.clock(), principal="")
    await rig.step(31)
    loaded = {each.number for each in (await rig.model()).versions if each.desired_replicas}
    assert loaded == kept


async def test_an_unloaded_new_version_rolls_back(rig: RolloutRig):
    await rig.begin()
    await rig.store.set_desired_replicas(ModelReference.parse("chat@2"), replicas=0)
    assert (await rig.step()).state is State.ROLLED_BACK


async def test_what_cannot_be_started(rig: RolloutRig):
    with pytest.raises(ModelNotFound, match="no version 9"):
        await rig.start(wish(to_version=9))
    with pytest.raises(ModelNotFound, match="no alias stable"):
        await rig.start(wish(alias="stable"))
    with pytest.raises(ModelNotFound, match="no model other"):
        await rig.start(wish(model="other"))
    await rig.store.set_alias("chat", "canary", 1)
    with pytest.raises(InvalidArgument, match="chat:canary is version 1 already"):
        await rig.start(wish(alias="canary", to_version=1))
    await rig.store.set_desired_replicas(ModelReference.parse("chat@2"), replicas=1)
    await rig.reconcile()
    with pytest.raises(InvalidArgument, match="its newest loaded version; set the alias first"):
        await rig.start()
    with pytest.raises(RolloutNotFound):
        await rig.get()
    assert (await rig.model()).splits == {}
    assert (await rig.version(3)).desired_replicas == 0


async def test_one_rollout_an_alias(rig: RolloutRig):
    await rig.start()
    with pytest.raises(IllegalState, match="rollout r-1 splits chat:default; end it first"):
        await rig.start(wish(to_version=3), "r-2")
    with pytest.raises(IllegalState, match="rollout r-1 splits"):
        await rig.store.set_alias("chat", "default", 3)
    with pytest.raises(IllegalState, match="rollout r-1 uses chat@2"):
        await rig.store.delete(ModelReference.parse("chat@2"))


async def test_an_id_makes_the_start_idempotent(rig: RolloutRig):
    rollout = await rig.start()
    assert await rig.start() == rollout
    with pytest.raises(IllegalState, match="exists with other arguments"):
        await rig.start(wish(hold_s=5))
    assert rig.event_names == ["rollout.started"]


async def test_rollouts_are_listed_newest_first_in_pages(rig: RolloutRig):
    for number in range(5):
        rig.clock.advance(number % 2)
        await rig.start(rollout_id=f"r-{number}")
        await rig.rollouts.store.ask(f"r-{number}", Action.ABORT, now=rig.clock(), principal="")
    found, before = [], None
    while page := await rig.rollouts.store.page(model="chat", before=before, limit=2):
        found += [rollout.rollout_id for rollout in page]
        before = position(page[-1])
    assert found == ["r-4", "r-3", "r-2", "r-1", "r-0"]
    assert await rig.rollouts.store.page(model="other", before=None, limit=2) == []


async def test_two_services_that_race_move_each_rollout_once(database: DatabaseUrl):
    async with rollout_rig(database) as first, rollout_rig(database, first.clock) as second:
        await first.register()
        await first.begin()
        for _ in range(10):
            await first.serve(30)
            first.clock.advance(601)
            await asyncio.gather(first.controller.advance(), second.controller.advance())
        assert (await first.get()).state is State.PROMOTED
        history = await first.rollouts.store.history("r-1")
        assert [change.weight for change in history] == [0, 1, 10, 50, 100, 100]
        assert len(first.events) + len(second.events) == 6


async def test_the_loop_is_woken_by_changes_and_outcomes(rig: RolloutRig):
    loop = asyncio.create_task(rig.controller.run())
    try:
        async with asyncio.timeout(20):
            await rig.start()
            await rig.reconcile()
            while (await rig.get()).weight != 1:
                await asyncio.sleep(0.01)
            await rig.serve(10, 10)
            while (await rig.get()).state is not State.ROLLED_BACK:
                await asyncio.sleep(0.01)
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


def watching(rig: RolloutRig, rollout_id: str = "r-1") -> AsyncGenerator[pb.WatchRolloutResponse]:
    servicer = RolloutServicer(rig.rollouts.store, wake=lambda: None, watch_interval_s=0.01)
    request = pb.WatchRolloutRequest(rollout_id=rollout_id)
    return servicer.WatchRollout(request, None)  # pyright: ignore[reportArgumentType]


async def test_a_watch_sends_new_figures_and_every_state_until_the_end(rig: RolloutRig):
    await rig.begin()
    watch = watching(rig)
    assert (await anext(watch)).rollout.state == pb.ROLLOUT_STATE_PROGRESSING
    await rig.serve(3)
    shown = (await anext(watch)).rollout
    assert (shown.requests, shown.readings[0].value) == (3, 0)
    await rig.ask(Action.PAUSE)
    assert (await anext(watch)).rollout.state == pb.ROLLOUT_STATE_PAUSED
    await rig.ask(Action.ABORT)
    rest = [each.rollout.state async for each in watch]
    assert rest == [pb.ROLLOUT_STATE_ABORTED]


async def test_a_watch_of_an_unknown_rollout_is_refused(rig: RolloutRig):
    with pytest.raises(RolloutNotFound):
        await anext(watching(rig, "nothing"))
