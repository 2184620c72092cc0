"""Which runtimes are kept when they are absent from the registry."""

import socket

import pytest

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh_model.catalogue.models import Phase
from mlxmesh_model.replicas.placement import Engine
from mlxmesh_model.replicas.runtimes import GrpcRuntimes
from mlxmesh_shared.registry.port import Instance
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.runtime import FakeHost, FakeRuntime

GRACE_S = 30


@pytest.fixture
async def asleep():
    """An address that accepts connections but never responds, like a stopped process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


class Watched:
    """Runtimes that once observed one runtime, with a settable clock."""

    def __init__(self, address: str, timeout_s: float = 0.1) -> None:
        self.registry = InMemoryRegistry()
        self.now_s = 0.0
        self.instance = Instance("runtime", "runtime-1", address, 1)
        self.runtimes = GrpcRuntimes(
            self.registry, timeout_s=timeout_s, grace_s=GRACE_S, clock=lambda: self.now_s
        )

    async def seen(self) -> list[str]:
        return [runtime.runtime_id for runtime in await self.runtimes.observe()]

    async def lose(self) -> None:
        await self.registry.register(self.instance)
        assert await self.seen() == ["runtime-1"]
        await self.registry.deregister(self.instance)


async def test_an_absent_runtime_is_kept_for_the_grace_period(asleep):
    mesh = Watched(asleep)
    await mesh.lose()
    mesh.now_s = 1000  # this process may have been asleep as well
    [runtime] = await mesh.runtimes.observe()
    assert runtime.engines is None
    mesh.now_s += GRACE_S - 1
    assert await mesh.seen() == ["runtime-1"]
    mesh.now_s += 1
    assert await mesh.seen() == []
    await mesh.runtimes.close()


async def test_the_grace_period_starts_with_each_absence(asleep):
    mesh = Watched(asleep)
    for _ in range(3):
        await mesh.lose()
        assert await mesh.seen() == ["runtime-1"]
        mesh.now_s += GRACE_S - 1
    await mesh.runtimes.close()


async def test_a_runtime_whose_address_refuses_connections_is_removed_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    mesh = Watched(address, timeout_s=30)
    await mesh.lose()
    assert await mesh.seen() == []
    await mesh.runtimes.close()


async def test_a_runtime_whose_address_is_reused_is_removed(asleep):
    mesh = Watched(asleep)
    await mesh.lose()
    await mesh.registry.register(Instance("runtime", "runtime-2", asleep, 2))
    assert await mesh.seen() == ["runtime-2"]
    await mesh.runtimes.close()


async def test_the_load_of_engines_and_the_shortage_of_memory_are_observed():
    registry, runtime = InMemoryRegistry(), FakeRuntime()
    runtime.engines["e1"] = pb.Engine(engine_id="e1", state=pb.ENGINE_STATE_READY, memory_bytes=7)
    runtime.set_load(
        "e1", running_sequences=3, waiting_sequences=2, longest_wait_ms=70, idle_ms=2**40
    )
    runtime.shortage_bytes = 5
    host = await FakeHost(runtime, registry).start()
    runtimes = GrpcRuntimes(registry)
    [observed] = await runtimes.observe()
    assert observed.engines == {
        "e1": Engine(
            "e1",
            Phase.READY,
            memory_bytes=7,
            running_sequences=3,
            waiting_sequences=2,
            longest_wait_ms=70,
            idle_ms=2**40,
        )
    }
    assert observed.memory_shortage_bytes == 5
    await runtimes.close()
    await host.crash()
