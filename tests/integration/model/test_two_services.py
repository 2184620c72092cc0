"""Model services as processes: two on one database, and ones that are killed during a rollout."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh.model.v1 import model_pb2_grpc, rollout_pb2, rollout_pb2_grpc
from mlxmesh.runtime.v1 import runtime_pb2
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.outcomes.recorder import Recorder
from mlxmesh_model.rollouts.counting import RolloutCounter
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.registry.port import Registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.model_directory import write_model
from tests.fakes.postgres import PostgresServer
from tests.fakes.rollouts import failed, outcome
from tests.fakes.runtime import FakeHost, FakeRuntime
from tests.integration.model.test_process import running

PREPARING, PROGRESSING = rollout_pb2.ROLLOUT_STATE_PREPARING, rollout_pb2.ROLLOUT_STATE_PROGRESSING
PAUSED, PROMOTED = rollout_pb2.ROLLOUT_STATE_PAUSED, rollout_pb2.ROLLOUT_STATE_PROMOTED
ROLLED_BACK = rollout_pb2.ROLLOUT_STATE_ROLLED_BACK
ABORTED = rollout_pb2.ROLLOUT_STATE_ABORTED


def url_text(database: DatabaseUrl) -> str:
    is_file = isinstance(database, SqliteFile)
    return f"sqlite:///{database.path}" if is_file else str(database)


@dataclass
class Service:
    """A model service that runs as a process."""

    process: asyncio.subprocess.Process
    models: model_pb2_grpc.ModelServiceStub
    rollouts: rollout_pb2_grpc.RolloutServiceStub

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def rollout(self) -> rollout_pb2.Rollout:
        request = rollout_pb2.GetRolloutRequest(rollout_id="r-1")
        return (await self.rollouts.GetRollout(request)).rollout

    async def until(self, condition: Callable[[rollout_pb2.Rollout], bool]) -> rollout_pb2.Rollout:
        async with asyncio.timeout(60):
            while not condition(rollout := await self.rollout()):
                await asyncio.sleep(0.05)
        return rollout


@asynccontextmanager
async def service(home: Path, database: DatabaseUrl) -> AsyncGenerator[Service]:
    """All have one data directory, and so one registry."""
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(
            running("mlxmesh_model", home, MLXMESH_MODEL_DATABASE_URL=url_text(database))
        )
        registry = open_registry(MeshSettings(data_dir=home))
        stack.push_async_callback(registry.close)
        address = await until_serving(registry, process.pid)
        channel = await stack.enter_async_context(open_channel(address))
        models = model_pb2_grpc.ModelServiceStub(channel)
        yield Service(process, models, rollout_pb2_grpc.RolloutServiceStub(channel))


async def until_serving(registry: Registry, pid: int) -> str:
    """The address of the process."""
    async with asyncio.timeout(60):
        async for instances in registry.watch("model"):
            for instance in instances:
                if instance.pid == pid:
                    return instance.address
    raise AssertionError("the watch ended")


@asynccontextmanager
async def host(home: Path) -> AsyncGenerator[FakeRuntime]:
    """The only host."""
    async with AsyncExitStack() as stack:
        runtime = FakeRuntime()
        registry = open_registry(MeshSettings(data_dir=home))
        stack.push_async_callback(registry.close)
        started = await FakeHost(runtime, registry).start()
        stack.push_async_callback(started.crash)
        yield runtime


async def register(models: model_pb2_grpc.ModelServiceStub, folder: Path) -> None:
    """Two versions of chat."""
    for rows in (8, 16):
        directory = write_model(folder / f"chat-{rows}", rows=rows)
        request = pb.RegisterModelRequest(name="chat", directory=str(directory))
        await models.RegisterModel(request)


async def load(models: model_pb2_grpc.ModelServiceStub, model: str = "chat@1") -> None:
    async with asyncio.timeout(60):
        async for _ in models.LoadModel(pb.LoadModelRequest(model=model)):
            pass


@asynccontextmanager
async def reporter(database: DatabaseUrl) -> AsyncGenerator[Callable[..., Awaitable[None]]]:
    """Reports outcomes, as generation does."""
    store = await Store.open(database)
    recorder, batch = Recorder(store, [RolloutCounter(lambda: None)]), 0

    async def report(good: int, bad: int = 0) -> None:
        nonlocal batch
        batch += 1
        outcomes = [outcome(n) for n in range(good)] + [failed(n) for n in range(bad)]
        await recorder.record("generation-1", batch, outcomes)

    try:
        yield report
    finally:
        await store.close()


async def test_one_of_two_services_reconciles_and_the_other_takes_over(
    tmp_path: Path, database: DatabaseUrl
):
    """Both would place the replica, so that there would be two engines."""
    home = tmp_path / "home"
    async with (
        service(home, database) as first,
        service(home, database) as second,
        host(home) as runtime,
    ):
        await register(second.models, tmp_path)
        await asyncio.gather(load(first.models), load(second.models))
        assert len(runtime.starts) == len(runtime.engines) == 1
        await first.kill()
        await load(second.models, "chat@2")
        assert len(runtime.starts) == len(runtime.engines) == 2


async def test_a_suspended_leader_that_wakes_changes_nothing(
    tmp_path: Path, postgres: PostgresServer
):
    database = postgres.create_database()
    home = tmp_path / "home"
    async with (
        service(home, database) as first,
        service(home, database) as second,
        host(home) as runtime,
    ):
        await register(second.models, tmp_path)
        await load(second.models)
        first.process.send_signal(signal.SIGSTOP)
        await load(second.models, "chat@2")
        first.process.send_signal(signal.SIGCONT)
        await first.models.ListModels(pb.ListModelsRequest())
        await asyncio.sleep(1)
        model = (await first.models.GetModel(pb.GetModelRequest(model="chat"))).model
        assert [version.ready_replicas for version in model.versions] == [1, 1]
        assert (len(runtime.starts), runtime.stops) == (2, [])


STATES = [PREPARING, PROGRESSING, PAUSED, PROMOTED, ROLLED_BACK, ABORTED]


@pytest.mark.parametrize("state", STATES, ids=rollout_pb2.RolloutState.Name)
async def test_a_rollout_outlives_a_service_that_is_killed(
    tmp_path: Path, state: rollout_pb2.RolloutState.ValueType
):
    """The service is killed in every state; the next one goes on, or has it as it was."""
    await killed_in(state, SqliteFile(tmp_path / "chat.db"), tmp_path)


async def test_a_rollout_in_postgresql_outlives_a_service_that_is_killed(
    tmp_path: Path, postgres: PostgresServer
):
    await killed_in(PROGRESSING, postgres.create_database(), tmp_path)


async def killed_in(
    state: rollout_pb2.RolloutState.ValueType, database: DatabaseUrl, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(host(home))
        async with service(home, database) as first:
            report = await stack.enter_async_context(reporter(database))
            await register(first.models, tmp_path)
            await load(first.models)
            runtime.hold = state == PREPARING
            await start(first)
            reached = await reach(first, state, report)
            await first.kill()
        async with service(home, database) as second:
            rollout = await second.rollout()
            if reached.HasField("end_time"):
                assert rollout == reached
            else:
                assert rollout.state == state
                rollout = await go_on(second, runtime, report)
            await check_alias(second, rollout)


async def start(service: Service) -> None:
    """A rollout in two steps of a second each."""
    await service.rollouts.StartRollout(
        rollout_pb2.StartRolloutRequest(
            name="chat", to_version=2, steps=[10, 100], hold_s=1, min_requests=5, rollout_id="r-1"
        )
    )


async def reach(
    service: Service,
    state: rollout_pb2.RolloutState.ValueType,
    report: Callable[..., Awaitable[None]],
) -> rollout_pb2.Rollout:
    """Brings a rollout into a state."""
    if state != PREPARING:
        await service.until(lambda rollout: rollout.state == PROGRESSING)
    if state == PAUSED:
        await service.rollouts.PauseRollout(rollout_pb2.PauseRolloutRequest(rollout_id="r-1"))
    if state == PROMOTED:
        await service.rollouts.PromoteRollout(rollout_pb2.PromoteRolloutRequest(rollout_id="r-1"))
    if state == ABORTED:
        await service.rollouts.AbortRollout(rollout_pb2.AbortRolloutRequest(rollout_id="r-1"))
    if state == ROLLED_BACK:
        await report(10, 10)
    return await service.until(lambda rollout: rollout.state == state)


async def go_on(
    service: Service, runtime: FakeRuntime, report: Callable[..., Awaitable[None]]
) -> rollout_pb2.Rollout:
    """Lets a rollout go on to its end."""
    rollout = await service.rollout()
    if rollout.state == PREPARING:
        for engine_id in runtime.engines:
            runtime.set_state(engine_id, runtime_pb2.ENGINE_STATE_READY)
    if rollout.state == PAUSED:
        await service.rollouts.ResumeRollout(rollout_pb2.ResumeRolloutRequest(rollout_id="r-1"))
    for step in (0, 1):
        await service.until(
            lambda rollout, step=step: rollout.state == PROGRESSING and rollout.step == step
        )
        await report(10)
    return await service.until(lambda rollout: rollout.state == PROMOTED)


async def check_alias(service: Service, rollout: rollout_pb2.Rollout) -> None:
    model = (await service.models.GetModel(pb.GetModelRequest(model="chat"))).model
    assert not model.splits
    assert dict(model.aliases) == {"default": 2 if rollout.state == PROMOTED else 1}
