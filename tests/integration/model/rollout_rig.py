"""Rollouts on a real database, with replicas that a test makes ready, and a time that it moves."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from google.protobuf.message import Message

from mlxmesh_model.catalogue.models import Artifact, FailureRecord, Model, Phase, Replica, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.outcomes.recorder import Recorder
from mlxmesh_model.rollouts.assembly import Rollouts, make_rollouts
from mlxmesh_model.rollouts.controller import RolloutController
from mlxmesh_model.rollouts.machine import Action
from mlxmesh_model.rollouts.rollout import ENDED, Rollout, State, Wish
from mlxmesh_shared.events import event_name
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.rollouts import WallClock, failed, outcome, wish


class RolloutRig:
    """One process that moves rollouts of the model chat, which has versions 1, 2 and 3."""

    def __init__(self, store: Store, clock: WallClock | None = None) -> None:
        self.store = store
        self.clock = clock or WallClock()
        self.events: list[Message] = []
        self.in_use: set[str] = set()
        """The labels of the versions that have sequences."""
        self.rollouts: Rollouts = make_rollouts(
            store, self._publish, in_use=self.in_use.__contains__, clock=self.clock
        )
        self.recorder = Recorder(store, [self.rollouts.counter])
        self._batch = 0

    def _publish(self, payload: Message, correlation_id: str = "") -> None:
        self.events.append(payload)

    @property
    def event_names(self) -> list[str]:
        """The names of the events that were published."""
        return [event_name(event) for event in self.events]

    @property
    def controller(self) -> RolloutController:
        """The loop, of which tests run single passes."""
        return self.rollouts.controller

    async def register(self, *, ready: int = 1) -> None:
        """Versions 1 to 3, of which the first has so many ready replicas."""
        for number in (1, 2, 3):
            digest = str(number) * 64
            await self.store.register(
                "chat", Artifact(f"/m/{number}", digest, "llama", 1, 1, "4-bit", 4096, 1024)
            )
        await self.store.set_desired_replicas(ModelReference.parse("chat@1"), replicas=ready)
        await self.reconcile()

    async def reconcile(self, failure: FailureRecord | None = None) -> None:
        """Makes every replica ready that should be loaded, or none of those that are missing."""
        for version in (await self.model()).versions:
            replicas = tuple(
                Replica(f"{version.label}-{n}", "runtime-1", Phase.READY)
                for n in range(version.desired_replicas)
            )
            if len(replicas) > len(version.replicas) and failure is not None:
                assert await self.store.record(version.with_replicas(version.replicas, failure))
            elif replicas != version.replicas:
                assert await self.store.record(version.with_replicas(replicas, None))

    async def model(self) -> Model:
        """The model as the catalogue has it."""
        return await self.store.model("chat")

    async def version(self, number: int) -> Version:
        """One of its versions."""
        return (await self.model()).version(number)

    async def start(self, asked: Wish | None = None, rollout_id: str = "r-1") -> Rollout:
        """Starts a rollout, which is PREPARING."""
        return await self.rollouts.store.start(
            rollout_id, asked or wish(), now=self.clock(), principal="user:ada"
        )

    async def begin(self, asked: Wish | None = None) -> Rollout:
        """Starts a rollout, and its first step."""
        await self.start(asked)
        await self.reconcile()
        return await self.step()

    async def ask(self, action: Action, principal: str = "user:ada") -> Rollout:
        """Does what a person may ask for."""
        return await self.rollouts.store.ask("r-1", action, now=self.clock(), principal=principal)

    async def get(self) -> Rollout:
        """The rollout as it is stored."""
        return await self.rollouts.store.get("r-1")

    async def step(self, after_s: float = 0.0) -> Rollout:
        """One pass of the loop, so much later."""
        self.clock.advance(after_s)
        await self.controller.advance()
        return await self.get()

    async def serve(self, good: int, bad: int = 0, *, version: int = 2) -> None:
        """Records so many generations that ended."""
        outcomes = [outcome(n, version=version) for n in range(good)]
        outcomes += [failed(n, version=version) for n in range(bad)]
        self._batch += 1
        await self.recorder.record("generation-1", self._batch, outcomes)

    async def weight(self) -> int | None:
        """The weight of the new version as generation sees it; None without a split.

        Whatever happens, weights add up to 100, and the split is that of the rollout.
        """
        model, rollout = await self.model(), await self.get()
        split = model.splits.get("default")
        assert split == rollout.split
        assert model.aliases["default"] == rollout.alias_version
        assert (split is None) == (rollout.state in ENDED)
        if split is None:
            return None
        assert sum(arm.weight for arm in split.arms) == 100
        return split.arms[0].weight

    async def finish(self) -> Rollout:
        """Goes on until the rollout ends, however it ends, and has unloaded what it leaves."""
        for _ in range(100):
            await self.reconcile()
            rollout = await self.step(601)
            await self.weight()
            if rollout.released:
                return rollout
            if rollout.state is State.PAUSED:
                await self.ask(Action.RESUME)
            await self.serve(30)
            await self.serve(30, version=1)
        raise AssertionError(f"it never ends: {await self.get()}")


@asynccontextmanager
async def rollout_rig(
    url: DatabaseUrl, clock: WallClock | None = None
) -> AsyncGenerator[RolloutRig]:
    """On a database that has no models yet, or those of another rig."""
    store = await Store.open(url)
    try:
        yield RolloutRig(store, clock)
    finally:
        await store.close()
