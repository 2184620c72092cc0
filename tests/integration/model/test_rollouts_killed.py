"""Every transition of a rollout with the process killed before and after its transaction."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from mlxmesh_model.catalogue.schema import CATALOGUE
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.rollouts.machine import TRANSITIONS, Action
from mlxmesh_model.rollouts.rollout import ENDED, State
from mlxmesh_shared.errors import RolloutNotFound
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.database import open_database
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.killed import Killed, Moment, MortalDatabase
from tests.fakes.rollouts import NO_MEMORY, WallClock
from tests.integration.model.rollout_rig import RolloutRig, rollout_rig

Deed = Callable[[RolloutRig], Awaitable[object]]


async def _to_preparing(rig: RolloutRig) -> None:
    await rig.start()


async def _to_progressing(rig: RolloutRig) -> None:
    await rig.begin()


async def _to_paused(rig: RolloutRig) -> None:
    await rig.begin()
    await rig.ask(Action.PAUSE)


REACH: dict[State, Deed] = {
    State.PREPARING: _to_preparing,
    State.PROGRESSING: _to_progressing,
    State.PAUSED: _to_paused,
}


async def _judged(rig: RolloutRig) -> None:
    await rig.step(601)


async def _asked(rig: RolloutRig, action: Action) -> None:
    await rig.ask(action)


async def _made_ready(rig: RolloutRig) -> None:
    await rig.reconcile()


async def _unable_to_load(rig: RolloutRig) -> None:
    await rig.reconcile(NO_MEMORY)


async def _good(rig: RolloutRig) -> None:
    await rig.serve(30)


async def _bad(rig: RolloutRig) -> None:
    await rig.serve(10, 10)


# What makes the next pass of the loop take each transition that the mesh takes by itself.
CAUSES: dict[tuple[State, Action], Deed] = {
    (State.PREPARING, Action.BEGIN): _made_ready,
    (State.PREPARING, Action.ROLL_BACK): _unable_to_load,
    (State.PROGRESSING, Action.ADVANCE): _good,
    (State.PROGRESSING, Action.ROLL_BACK): _bad,
    (State.PAUSED, Action.ROLL_BACK): _bad,
}
MOMENTS: list[Moment] = ["before the commit", "after the commit"]


@asynccontextmanager
async def _mortal(
    url: DatabaseUrl, clock: WallClock
) -> AsyncGenerator[tuple[RolloutRig, MortalDatabase]]:
    database = MortalDatabase(await open_database(url, CATALOGUE))
    store = Store(url, database)
    try:
        yield RolloutRig(store, clock), database
    finally:
        await store.close()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("state", "action"), list(TRANSITIONS), ids="-".join)
async def test_a_killed_service_leaves_a_rollout_that_goes_on_or_back(
    database: DatabaseUrl, state: State, action: Action, moment: Moment
):
    clock = WallClock()
    async with _mortal(database, clock) as (rig, mortal):
        await rig.register()
        await REACH[state](rig)
        if action is Action.PROMOTE:
            await rig.reconcile()
        cause = CAUSES.get((state, action))
        if cause is not None:
            await cause(rig)
        mortal.dies = moment
        with pytest.raises(Killed):
            await (_judged(rig) if cause is not None else _asked(rig, action))
    async with rollout_rig(database, clock) as restarted:
        await restarted.weight()
        is_done = moment == "after the commit"
        expected = TRANSITIONS[state, action] if is_done else state
        assert (await restarted.get()).state is expected
        history = await restarted.rollouts.store.history("r-1")
        assert history[-1].state is expected
        assert len(history) == (await restarted.get()).revision + 1
        ended = await restarted.finish()
        assert ended.state in ENDED
        if is_done and expected in ENDED:
            assert ended.state is expected
        kept, left = (2, 1) if ended.state is State.PROMOTED else (1, 2)
        assert (await restarted.version(kept)).desired_replicas == 1
        assert (await restarted.version(left)).desired_replicas == 0
        assert (await restarted.model()).aliases == {"default": kept}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_service_killed_at_the_start_has_started_all_or_nothing(
    database: DatabaseUrl, moment: Moment
):
    clock = WallClock()
    async with _mortal(database, clock) as (rig, mortal):
        await rig.register()
        mortal.dies = moment
        with pytest.raises(Killed):
            await rig.start()
    async with rollout_rig(database, clock) as restarted:
        if moment == "before the commit":
            with pytest.raises(RolloutNotFound):
                await restarted.get()
            assert (await restarted.model()).splits == {}
            assert (await restarted.version(2)).desired_replicas == 0
        # Its caller repeats the call, with the same id.
        await restarted.start()
        assert (await restarted.finish()).state is State.PROMOTED
        assert len(await restarted.rollouts.store.history("r-1")) == 6


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_service_killed_while_it_unloads_unloads_later(
    database: DatabaseUrl, moment: Moment
):
    clock = WallClock()
    async with _mortal(database, clock) as (rig, mortal):
        await rig.register()
        await rig.begin()
        await rig.ask(Action.ABORT)
        mortal.dies = moment
        with pytest.raises(Killed):
            await rig.step(31)
    async with rollout_rig(database, clock) as restarted:
        await restarted.step()
        assert (await restarted.version(2)).desired_replicas == 0
        assert (await restarted.get()).released
        # Nothing unloads it again.
        await restarted.store.set_desired_replicas(ModelReference.parse("chat@2"), replicas=1)
        await restarted.step(100)
        assert (await restarted.version(2)).desired_replicas == 1


@pytest.mark.parametrize("moment", MOMENTS)
async def test_outcomes_that_a_killed_service_recorded_count_once(
    database: DatabaseUrl, moment: Moment
):
    clock = WallClock()
    async with _mortal(database, clock) as (rig, mortal):
        await rig.register()
        await rig.begin()
        mortal.dies = moment
        with pytest.raises(Killed):
            await rig.serve(5)
    async with rollout_rig(database, clock) as restarted:
        await restarted.serve(5)  # the reporter repeats the batch with its number
        observed = await restarted.rollouts.store.observe(await restarted.get())
        assert observed.new.requests == 5
