"""What every service does around its own work, in which order, and what a failure leaves open."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlxmesh.model.v1 import model_pb2
from mlxmesh.telemetry.v1 import telemetry_pb2
from mlxmesh.telemetry.v1.events_pb2 import ModelLoadFailed
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.process.service_host import ServiceHost, ServiceSteps, open_host
from mlxmesh_shared.process.service_process import ServiceProcess, start_process
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.registry.directory import DirectoryRegistry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.health import health
from mlxmesh_shared.rpc.server import ServerOptions
from mlxmesh_shared.settings import LiveSettings, ModelSettings
from tests.draining import drain
from tests.fakes.event_gateway import FakeEventGateway, event_server
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.service_process import quiet_process
from tests.fakes.serving import serving

STEPS = (
    "before_ready",
    "register",
    "wait_for_stop",
    "before_deregistration",
    "deregister",
    "before_drain",
)
MODEL = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
TELEMETRY = telemetry_pb2.DESCRIPTOR.services_by_name["TelemetryService"].full_name


class Recording:
    """Notes each step of one host with the health that peers see then; may fail at one of them."""

    def __init__(self, data_dir: Path, *, fail_at: str = "", listen: str = "127.0.0.1:0") -> None:
        self.notes: list[tuple[str, str]] = []
        self.registry = RecordingRegistry(self)
        settings = ModelSettings(data_dir=data_dir, zone="rack-7", listen=listen)
        process = quiet_process(settings, "model", "model-1")
        self.host = ServiceHost(process, self.registry, wait_for_stop=self._wait_for_stop)
        self.server = process.make_server(
            listen, service_names=[MODEL, TELEMETRY], options=ServerOptions(settle_s=0)
        )
        self._fail_at = fail_at

    @property
    def steps(self) -> list[str]:
        return [step for step, _ in self.notes]

    async def serve(self, **changes: Any) -> None:
        steps: dict[str, Any] = {
            "facts": {"device": "cpu"},
            "before_ready": lambda: self.note("before_ready"),
            "before_deregistration": self._noting("before_deregistration"),
            "before_drain": self._noting("before_drain"),
        }
        await self.host.serve(self.server, grace_s=1, steps=ServiceSteps(**(steps | changes)))

    async def note(self, step: str) -> None:
        self.notes.append((step, await health(self.server.address)))
        if step == self._fail_at:
            raise IllegalState(f"{step} failed")

    async def _wait_for_stop(self, leaving: asyncio.Event) -> None:
        await self.note("wait_for_stop")
        await leaving.wait()

    def _noting(self, step: str) -> Callable[[Instance], Awaitable[None]]:
        async def note(_instance: Instance) -> None:
            await self.note(step)

        return note


class RecordingRegistry(InMemoryRegistry):
    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    async def register(self, instance: Instance) -> None:
        await super().register(instance)
        await self._recording.note("register")

    async def deregister(self, instance: Instance) -> None:
        await super().deregister(instance)
        await self._recording.note("deregister")


async def drained_once_registered(recording: Recording) -> None:
    async for instances in recording.registry.watch("model"):
        if instances:
            break
    await drain(recording.server.address)


async def test_it_joins_and_leaves_the_mesh_in_order(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(drained_once_registered(recording))
        await recording.serve()
    assert recording.notes == [
        ("before_ready", "not_serving"),
        ("register", "serving"),
        ("wait_for_stop", "serving"),
        ("before_deregistration", "serving"),
        ("deregister", "serving"),
        ("before_drain", "serving"),
    ]
    # The drain, and no step before it, reports NOT_SERVING and closes the port.
    assert await health(recording.server.address) == "unreachable"


async def test_its_record_names_it_and_its_facts_until_it_is_deregistered(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    seen: list[list[Instance]] = []

    async def look(_instance: Instance) -> None:
        seen.append(list(await recording.registry.resolve("model")))

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(drained_once_registered(recording))
        await recording.serve(before_deregistration=look, before_drain=look)
    (instance,), after = seen
    assert (instance.instance_id, instance.address) == ("model-1", recording.server.address)
    assert (instance.metadata["zone"], instance.metadata["device"]) == ("rack-7", "cpu")
    assert after == []


async def test_only_the_named_services_are_serving_once_it_is_ready(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    seen: list[tuple[bool, bool]] = []

    async def look(_instance: Instance) -> None:
        address = recording.server.address
        seen.append((await is_serving(address, MODEL), await is_serving(address, TELEMETRY)))

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(drained_once_registered(recording))
        await recording.serve(serving=[TELEMETRY], before_deregistration=look)
    assert seen == [(False, True)]


async def is_serving(address: str, service: str) -> bool:
    async with open_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return response.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("failing", STEPS)
async def test_a_step_that_fails_leaves_nothing_behind(tmp_path: Path, failing: str) -> None:
    recording = Recording(tmp_path, fail_at=failing)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        draining = tasks.create_task(drained_once_registered(recording))
        with pytest.raises(IllegalState, match=f"{failing} failed"):
            await recording.serve()
        draining.cancel()
    reached = list(STEPS[: STEPS.index(failing) + 1])
    # Whatever the step, the instance is deregistered before its server stops.
    assert recording.steps == [*reached, "deregister"]
    assert await recording.registry.resolve("model") == ()
    assert await health(recording.server.address) == "unreachable"


async def test_a_cancellation_leaves_nothing_behind_either(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    serving = asyncio.create_task(recording.serve())
    async with asyncio.timeout(20):
        while "wait_for_stop" not in recording.steps:
            await asyncio.sleep(0.01)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert recording.steps[-1] == "deregister"
    assert await health(recording.server.address) == "unreachable"


async def test_an_address_in_use_ends_it_before_any_step(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        recording = Recording(tmp_path, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(IllegalState, match="cannot listen"):
            await recording.serve()
    assert recording.notes == []


def directory_process(data_dir: Path) -> ServiceProcess[ModelSettings]:
    return quiet_process(ModelSettings(data_dir=data_dir), "model", "model-1")


async def test_an_opened_host_uses_the_registry_of_the_settings(tmp_path: Path) -> None:
    other = DirectoryRegistry(tmp_path / "registry")
    instance = Instance("model", "model-1", "127.0.0.1:1", pid=1)
    async with open_host(directory_process(tmp_path)) as host:
        await host.registry.register(instance)
        assert await other.resolve("model") == (instance,)
        await host.registry.deregister(instance)
    await other.close()


@pytest.mark.parametrize("failing", [False, True])
async def test_a_host_ends_what_it_opened(tmp_path: Path, *, failing: bool) -> None:
    before = asyncio.all_tasks()

    async def run() -> None:
        async with open_host(directory_process(tmp_path)) as host, host.publishing():
            await host.registry.register(Instance("model", "model-1", "127.0.0.1:1", pid=1))
            assert asyncio.all_tasks() - before - {asyncio.current_task()}
            if failing:
                raise IllegalState("the service failed")

    if failing:
        with pytest.raises(IllegalState, match="the service failed"):
            await run()
    else:
        await run()
    assert asyncio.all_tasks() == before


async def test_its_events_name_it_and_reach_a_gateway(tmp_path: Path) -> None:
    gateway = FakeEventGateway()
    registry = InMemoryRegistry()
    host = ServiceHost(directory_process(tmp_path), registry)
    async with (
        asyncio.timeout(30),
        serving(event_server(gateway)) as address,
        host.publishing() as events,
    ):
        await registry.register(Instance("gateway", "gateway-1", address, pid=1))
        events.publish(ModelLoadFailed(model="pocket"))
        while not gateway.events:
            await asyncio.sleep(0.01)
    (event,) = gateway.events
    assert (event.name, event.service, event.instance_id) == (
        "model.load_failed", "model", "model-1",
    )  # fmt: skip


def test_a_process_does_not_start_without_its_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = ModelSettings(data_dir=tmp_path / "file")
    with pytest.raises(IllegalState, match="cannot be used as the data directory"):
        start_process(LiveSettings(lambda _: settings), "model")


def test_a_process_that_stores_nothing_makes_no_data_directory(tmp_path: Path) -> None:
    settings = ModelSettings(data_dir=tmp_path / "data", telemetry=False)
    process = start_process(LiveSettings(lambda _: settings), "model", uses_data_dir=False)
    assert process.instance_id.startswith("model-")
    assert not (tmp_path / "data").exists()


def test_a_process_does_not_start_without_its_certificates(tmp_path: Path) -> None:
    settings = ModelSettings(data_dir=tmp_path, telemetry=False, tls_dir=tmp_path / "tls")
    with pytest.raises(IllegalState, match="make certificates with"):
        start_process(LiveSettings(lambda _: settings), "model")
