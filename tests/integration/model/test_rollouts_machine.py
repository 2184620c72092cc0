"""Whatever people, traffic, time, loads and crashes do: weights are 100, and every rollout ends."""

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.rollouts.machine import Action
from mlxmesh_model.rollouts.rollout import ENDED, Rollout, State
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.urls import SqliteFile
from tests.fakes.rollouts import NO_MEMORY, WallClock, wish
from tests.integration.model.rollout_rig import RolloutRig

ASKED = [Action.PAUSE, Action.RESUME, Action.PROMOTE, Action.ABORT]


class RolloutMachine(RuleBasedStateMachine):
    """Two services on one database, with one rollout."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._run = self._runner.run
        self._directory = tempfile.TemporaryDirectory()
        self._clock = WallClock()
        self._last: Rollout | None = None
        self._rigs = [self._run(self._open()) for _ in range(2)]
        self._run(self._rigs[0].register())
        self._run(self._rigs[0].start(wish(steps=(5, 50), min_requests=10)))

    async def _open(self) -> RolloutRig:
        url = SqliteFile(Path(self._directory.name) / "model.db")
        return RolloutRig(await Store.open(url), self._clock)

    @rule(number=st.integers(0, 1), after_s=st.sampled_from([0, 31, 601]))
    def pass_of_the_loop(self, number: int, after_s: float) -> None:
        self._run(self._rigs[number].step(after_s))

    @rule(after_s=st.sampled_from([0, 601]))
    def passes_that_race(self, after_s: float) -> None:
        async def race() -> None:
            self._clock.advance(after_s)
            await asyncio.gather(*(rig.controller.advance() for rig in self._rigs))

        self._run(race())

    @rule(number=st.integers(0, 1), action=st.sampled_from(ASKED))
    def somebody_asks(self, number: int, action: Action) -> None:
        with suppress(IllegalState):
            self._run(self._rigs[number].ask(action))

    @rule(good=st.integers(0, 30), bad=st.integers(0, 2), version=st.integers(1, 2))
    def traffic(self, good: int, bad: int, version: int) -> None:
        self._run(self._rigs[0].serve(good, bad, version=version))

    @rule()
    def replicas_get_ready(self) -> None:
        self._run(self._rigs[0].reconcile())

    @rule()
    def replicas_cannot_be_loaded(self) -> None:
        self._run(self._rigs[0].reconcile(NO_MEMORY))

    @rule()
    def somebody_unloads_the_new_version(self) -> None:
        store, reference = self._rigs[1].store, ModelReference.parse("chat@2")
        self._run(store.set_desired_replicas(reference, replicas=0))

    @rule()
    def the_second_service_restarts(self) -> None:
        self._run(self._rigs[1].store.close())
        self._rigs[1] = self._run(self._open())

    @invariant()
    def weights_add_up_to_100(self) -> None:
        self._run(self._rigs[0].weight())

    @invariant()
    def it_never_leaves_an_end_and_never_goes_back_a_step(self) -> None:
        rollout, last = self._run(self._rigs[1].get()), self._last
        if last is not None:
            assert rollout.revision >= last.revision
            assert rollout.step >= last.step
            assert last.state not in ENDED or rollout.state is last.state
        self._last = rollout

    @invariant()
    def every_revision_is_in_the_history_once(self) -> None:
        rollout = self._run(self._rigs[0].get())
        history = self._run(self._rigs[0].rollouts.store.history("r-1"))
        assert len(history) == rollout.revision + 1
        assert history[-1].state is rollout.state
        assert history[-1].weight == rollout.weight

    @invariant()
    def the_version_behind_the_alias_is_loaded(self) -> None:
        rig = self._rigs[0]
        rollout = self._run(rig.get())
        if rollout.state is not State.PROMOTED:
            assert self._run(rig.version(1)).desired_replicas == 1

    @precondition(lambda self: self._last is not None)
    @rule()
    def nothing(self) -> None:
        """So that an example may end at any point."""

    def teardown(self) -> None:
        try:
            assert self._run(self._rigs[1].finish()).state in ENDED
        finally:
            for rig in self._rigs:
                self._run(rig.store.close())
            self._runner.close()
            self._directory.cleanup()


TestRollouts = RolloutMachine.TestCase
TestRollouts.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
