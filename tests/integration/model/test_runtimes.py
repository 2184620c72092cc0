"""Which runtimes are kept when they are absent from the registry."""

import socket

import pytest

from mlxmesh_model.replicas.runtimes import GrpcRuntimes
from mlxmesh_shared.registry.port import Instance
from tests.fakes.registry import InMemoryRegistry

GRACE_S = 30


@pytest.fixture
async def asleep():
    """An address that accepts connections but never responds, like a stopped process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


class Watched:
    """Runtimes that once observed one runtime, with a settable clock."""

    def __init__(self, address: str) -> None:
        self.registry = InMemoryRegistry()
        self.now_s = 0.0
        self.instance = Instance("runtime", "runtime-1", address, 1)
        self.runtimes = GrpcRuntimes(
            self.registry, timeout_s=0.1, grace_s=GRACE_S, clock=lambda: self.now_s
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
    mesh = Watched(address)
    await mesh.lose()
    assert await mesh.seen() == []
    await mesh.runtimes.close()


async def test_a_runtime_whose_address_is_reused_is_removed(asleep):
    mesh = Watched(asleep)
    await mesh.lose()
    await mesh.registry.register(Instance("runtime", "runtime-2", asleep, 2))
    assert await mesh.seen() == ["runtime-2"]
    await mesh.runtimes.close()
