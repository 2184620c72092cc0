"""LauncherService over real gRPC: steps are told as they happen, one restart at a time."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from mlxmesh.control.v1 import launcher_pb2 as pb
from mlxmesh.control.v1.launcher_pb2_grpc import LauncherServiceStub
from mlxmesh_launcher.servicer import control_server
from mlxmesh_shared.errors import IllegalState, InvalidArgument, ServiceUnavailable
from mlxmesh_shared.rpc.channels import open_channel
from tests.draining import drain
from tests.fakes.serving import serving


class Processes:
    """Processes that are replaced at once, unless `go_on` is cleared or one `fails`."""

    def __init__(self) -> None:
        self.replaced: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.fails = ""
        self.started: list[str] = []

    async def start_service(self, name: str) -> tuple[pb.SupervisedService, bool]:
        if name == self.fails:
            raise ServiceUnavailable(f"{name} ended with code 1: its last words")
        is_new = name not in self.started
        self.started.append(name)
        return pb.SupervisedService(name=name, pid=7), is_new

    def names(self, services: Sequence[str]) -> list[str]:
        return [name for name in ("runtime", "model") if not services or name in services]

    def services(self) -> Sequence[pb.SupervisedService]:
        return [pb.SupervisedService(name="model", restart_in_ms=34_000, last_exit="code 1: full")]

    async def replace(self, name: str) -> AsyncGenerator[pb.RestartPhase.ValueType]:
        yield pb.RESTART_PHASE_STARTING
        if name == self.fails:
            raise ServiceUnavailable(f"{name} ended with code 1: its last words")
        await self.go_on.wait()
        yield pb.RESTART_PHASE_DRAINING
        self.replaced.append(name)
        yield pb.RESTART_PHASE_DONE


async def test_steps_one_at_a_time_and_failures() -> None:
    processes = Processes()
    leaving = asyncio.Event()
    server = control_server(processes, leaving=leaving)
    async with serving(server) as address, open_channel(address) as channel:
        stub = LauncherServiceStub(channel)

        async def restart(*services: str) -> list[tuple[str, int]]:
            request = pb.RestartRequest(services=services)
            return [(step.name, step.phase) async for step in stub.Restart(request)]

        assert await restart() == [
            (name, phase) for name in ("runtime", "model") for phase in (1, 2, 3)
        ]
        assert await restart("model") == [("model", 1), ("model", 2), ("model", 3)]
        with pytest.raises(InvalidArgument):
            await restart("database")

        (down,) = (await stub.ListServices(pb.ListServicesRequest())).services
        assert (down.name, down.pid, down.restart_in_ms) == ("model", 0, 34_000)
        assert down.last_exit == "code 1: full"

        processes.go_on.clear()
        first = asyncio.create_task(restart())
        await asyncio.sleep(0.2)
        with pytest.raises(IllegalState, match="running already"):
            await restart()
        processes.go_on.set()
        assert len(await first) == 6

        processes.fails, processes.replaced = "runtime", []
        with pytest.raises(ServiceUnavailable, match="its last words"):
            await restart()
        assert processes.replaced == []
        assert not leaving.is_set()
        await drain(address)
        assert leaving.is_set()


async def test_a_service_is_started_when_it_is_first_used() -> None:
    processes = Processes()
    server = control_server(processes, leaving=asyncio.Event())
    async with serving(server) as address, open_channel(address) as channel:
        stub = LauncherServiceStub(channel)
        first, second = [
            await stub.StartService(pb.StartServiceRequest(name="access")) for _ in range(2)
        ]
        assert (first.service.name, first.started, second.started) == ("access", True, False)
        for name in ("", "model", "gateway", "accessory", "worker"):
            with pytest.raises(InvalidArgument) as caught:
                await stub.StartService(pb.StartServiceRequest(name=name))
            assert caught.value.field == "name"
        processes.fails = "access"
        with pytest.raises(ServiceUnavailable, match="its last words"):
            await stub.StartService(pb.StartServiceRequest(name="access"))
