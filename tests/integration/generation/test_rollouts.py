"""Rollouts under load: a real generation service, a real catalogue, and an engine a version.

Generation reports its outcomes by gRPC. Time is the test's: a second for every 50 calls.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlxmesh.engine.v1.engine_pb2 import Submit
from mlxmesh.generation.v1.generation_pb2 import CountTokensRequest, GenerateRequest
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.model.v1.history_pb2_grpc import add_HistoryServiceServicer_to_server
from mlxmesh.model.v1.model_pb2_grpc import add_ModelServiceServicer_to_server
from mlxmesh_model import convert
from mlxmesh_model.history.history import History
from mlxmesh_model.history.servicer import HistoryServicer
from mlxmesh_model.rollouts.rollout import State, Wish
from mlxmesh_shared.errors import EngineFailed, MeshError, ModelNotFound
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.channels import ChannelPool
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.sql.urls import SqliteFile
from tests.fakes.engine import FakeEngine, FakeEngineOptions
from tests.fakes.model_service import FakeModelService
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.rollouts import wish
from tests.integration.generation.harness import generation_service
from tests.integration.model.rollout_rig import RolloutRig, rollout_rig

pytestmark = pytest.mark.timeout(300)

CALLS_A_SECOND = 50
PAST_THE_RELEASE_S = 31


class FailingEngine(FakeEngine):
    """Fails one in so many requests; 0 for none."""

    def __init__(self, version: int, *, one_in: int = 0) -> None:
        options = FakeEngineOptions(
            engine_id=f"engine-{version}", model="chat", model_version=version
        )
        super().__init__(options)
        self.failures = 0
        self._one_in = one_in

    def _check(self, submit: Submit, outbox: object) -> None:
        super()._check(submit, outbox)  # pyright: ignore[reportArgumentType]
        if self._one_in and len(self.submits) % self._one_in == 0:
            self.failures += 1
            raise EngineFailed("the scripted failure of this version")


@dataclass
class Traffic:
    """Calls of many sessions, and how they ended."""

    stub: GenerationServiceStub
    rig: RolloutRig
    models: FakeModelService
    tokenizer_dir: Path
    by_version: Counter[int] = field(default_factory=Counter[int])
    failed: list[MeshError] = field(default_factory=list[MeshError])

    @property
    def calls(self) -> int:
        """All so far."""
        return self.by_version.total() + len(self.failed)

    async def second(self) -> State:
        """One of 50 calls, of which the mesh has then heard; the state after it."""
        await asyncio.gather(*(self._call() for _ in range(CALLS_A_SECOND)))
        return (await self.rig.step(1)).state

    async def _call(self) -> None:
        request = GenerateRequest(model="chat", prompt="hello", max_tokens=2)
        try:
            version = 0
            async for response in self.stub.Generate(request, timeout=200):
                version = response.started.model_version or version
            self.by_version[version] += 1
        except MeshError as error:
            self.failed.append(error)


@asynccontextmanager
async def traffic(
    tmp_path: Path, tokenizer_dir: Path, engines: Sequence[FakeEngine]
) -> AsyncGenerator[Traffic]:
    """Generation that mirrors the catalogue of a rig and reports to it."""
    registry, models = InMemoryRegistry(), FakeModelService()
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(rollout_rig(SqliteFile(tmp_path / "model.db")))
        await rig.register()
        models.put(convert.to_model(await rig.model()), tokenizer_dir)
        mirroring = asyncio.create_task(_mirror(rig, models))
        stack.callback(mirroring.cancel)
        server = MeshServer(
            services=[
                (add_ModelServiceServicer_to_server, models),
                (
                    add_HistoryServiceServicer_to_server,
                    HistoryServicer(rig.recorder, History(rig.store)),
                ),
            ],
            service_names=["mlxmesh.model.v1.ModelService", "mlxmesh.model.v1.HistoryService"],
            name="model",
        )
        await registry.register(Instance("model", "model-1", await server.start(), 0))
        stack.push_async_callback(server.drain, 0, 0)
        await server.set_serving()
        for engine in engines:
            await stack.enter_async_context(engine.running())
            await registry.register(engine.instance)
        generation = await stack.enter_async_context(generation_service(registry, tmp_path))
        channels = ChannelPool()
        stack.push_async_callback(channels.close)
        stub = GenerationServiceStub(channels.get(generation.address))
        yield Traffic(stub, rig, models, tokenizer_dir)


async def _mirror(rig: RolloutRig, models: FakeModelService) -> None:
    """Tells generation of every change of the catalogue."""
    with rig.store.subscribe() as changed:
        while True:
            await changed.wait()
            changed.clear()
            models.put(convert.to_model(await rig.model()))


async def _started(on: Traffic, asked: Wish) -> None:
    """The first step, which generation has seen."""
    await on.rig.begin(asked)
    changed = convert.to_model(await on.rig.model())
    on.models.put(changed)
    changed.name = "later"  # than the change, in the order in which generation hears of it
    on.models.put(changed, on.tokenizer_dir)
    async with asyncio.timeout(30):
        while True:
            with suppress(ModelNotFound):
                await on.stub.CountTokens(CountTokensRequest(model="later", prompt="x"))
                return
            await asyncio.sleep(0.01)


async def test_a_version_that_errors_on_five_percent_is_rolled_back_within_one_hold(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    good, bad = FailingEngine(1), FailingEngine(2, one_in=20)
    async with traffic(tmp_path, tokenizer_dir, [good, bad]) as on:
        await _started(on, wish(hold_s=60, min_requests=20))
        # Outcomes arrive within a second of real time, which the test's time does not wait for.
        for _ in range(60):
            state = await on.second()
            if state is not State.PROGRESSING:
                break
        await asyncio.sleep(1.5)
        while (rollout := await on.rig.step()).state is State.PROGRESSING:
            assert rollout.step == 0
            await on.second()
            await asyncio.sleep(1)
        assert rollout.state is State.ROLLED_BACK
        reached = len(bad.submits)
        assert reached <= 0.05 * on.calls
        # None failed but those of the version itself, and none fails from then on.
        for _ in range(4):
            await on.second()
        await on.rig.step(PAST_THE_RELEASE_S)
        assert (await on.rig.version(2)).desired_replicas == 0
        await bad.stop()
        await on.second()
        assert len(on.failed) == bad.failures
        assert bad.failures >= 1
        assert on.by_version[1] + on.by_version[2] + bad.failures == on.calls


async def test_a_good_version_is_promoted_without_a_failed_call(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    present, new = FailingEngine(1), FailingEngine(2)
    async with traffic(tmp_path, tokenizer_dir, [present, new]) as on:
        await _started(on, wish(steps=(10, 50, 100), hold_s=4, min_requests=10))
        async with asyncio.timeout(90):
            while await on.second() is not State.PROMOTED:
                pass
        await on.rig.step(PAST_THE_RELEASE_S)
        assert (await on.rig.version(1)).desired_replicas == 0
        await present.stop()
        answered = on.by_version[2]
        await on.second()
        assert on.by_version[2] == answered + CALLS_A_SECOND
        assert on.failed == []
        assert on.by_version.keys() == {1, 2}
