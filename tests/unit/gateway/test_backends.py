"""Endpoints come and go with the registry; their channels live as long as their calls."""

from typing import Any

import grpc
import pytest

from mlxmesh_gateway.backends import Backends
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.registry import Instance
from tests.fakes.registry import InMemoryRegistry


class FakeChannel:
    def __init__(self, address: str) -> None:
        self.address = address
        self.state = grpc.ChannelConnectivity.READY
        self.closed = False
        self.made: list[str] = []

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.state

    def unary_unary(self, path: str) -> Any:
        self.made.append(path)
        return object()

    async def close(self, grace: float | None = None) -> None:
        self.closed = True


class Stand:
    def __init__(self) -> None:
        self.registry = InMemoryRegistry()
        self.channels: dict[str, FakeChannel] = {}
        self.changes: list[tuple[str, bool]] = []

    async def add(self, number: int) -> Instance:
        instance = Instance("generation", f"generation-{number}", f"host:{number}", pid=number)
        await self.registry.register(instance)
        return instance

    async def started(self) -> Backends:
        backends = Backends(
            self.registry, ["generation"], on_change=self._on_change, open_=self._open
        )
        await backends.start()
        await backends.stop_following()
        return backends

    def _open(self, address: str, *, role: str = "", window_bytes: int | None = None) -> Any:
        assert role == "generation"
        self.channels[address] = FakeChannel(address)
        return self.channels[address]

    async def _on_change(self, service: str, known: bool) -> None:
        self.changes.append((service, known))


async def test_without_an_instance_there_is_nothing_to_prefer() -> None:
    stand = Stand()
    backends = await stand.started()

    with pytest.raises(ServiceUnavailable, match="no generation service"):
        backends.by_preference("generation")
    assert stand.changes == [("generation", False)]


async def test_the_least_busy_reachable_endpoint_comes_first() -> None:
    stand = Stand()
    for number in (1, 2, 3):
        await stand.add(number)
    backends = await stand.started()
    busy, broken, idle = backends.all("generation")
    stand.channels["host:2"].state = grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async with busy.busy():
        assert backends.by_preference("generation") == [idle, busy, broken]
    assert backends.by_preference("generation") == [busy, idle, broken]


async def test_a_retired_channel_stays_open_until_its_last_call_ends() -> None:
    stand = Stand()
    await stand.add(1)
    (endpoint,) = (await stand.started()).all("generation")

    async with endpoint.busy():
        async with endpoint.busy():
            await endpoint.retire()
        assert not stand.channels["host:1"].closed
    assert stand.channels["host:1"].closed


async def test_an_idle_channel_closes_when_it_retires() -> None:
    stand = Stand()
    await stand.add(1)
    (endpoint,) = (await stand.started()).all("generation")

    await endpoint.retire()

    assert stand.channels["host:1"].closed


async def test_a_method_is_made_once_per_channel() -> None:
    stand = Stand()
    await stand.add(1)
    (endpoint,) = (await stand.started()).all("generation")

    assert endpoint.unary("/a/b") is endpoint.unary("/a/b")
    assert stand.channels["host:1"].made == ["/a/b"]


async def test_closing_closes_every_channel() -> None:
    stand = Stand()
    for number in (1, 2):
        await stand.add(number)
    backends = await stand.started()

    await backends.close()

    assert all(channel.closed for channel in stand.channels.values())
