"""Endpoints come and go with the registry; their channels live as long as their calls."""

import asyncio
from typing import Any

import grpc
import pytest

from mlxmesh_gateway.forwarding.backends import Backends
from mlxmesh_gateway.forwarding.endpoint import Endpoint
from mlxmesh_shared.errors import (
    Draining,
    EngineLost,
    Internal,
    MeshError,
    NoReplica,
    NotFound,
    ServiceUnavailable,
)
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rendezvous import rendezvous_weight
from mlxmesh_shared.resilience.breaker import Breaker, BreakerPolicy, BreakerState
from mlxmesh_shared.rpc.channels import SHORT_TIMEOUTS, PeerTimeouts
from tests.fakes.lost import lost
from tests.fakes.registry import InMemoryRegistry


class FakeChannel:
    def __init__(self, address: str) -> None:
        self.address = address
        self.state = grpc.ChannelConnectivity.READY
        self.closed = False
        self.made: list[str] = []
        self._changed = asyncio.Event()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.state

    def change(self, state: grpc.ChannelConnectivity) -> None:
        self.state = state
        self._changed.set()

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        while self.state is last_observed_state:
            self._changed.clear()
            await self._changed.wait()

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

    def _open(
        self,
        address: str,
        *,
        role: str = "",
        window_bytes: int | None = None,
        timeouts: PeerTimeouts = SHORT_TIMEOUTS,
    ) -> Any:
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


async def test_a_breaker_counts_internal_errors_and_lost_engines_as_failures() -> None:
    stand = Stand()
    await stand.add(1)
    (endpoint,) = (await stand.started()).all("generation")

    for error in (EngineLost("x"), Internal("x"), NotFound("x")):
        endpoint.breaker.admit().ended_by(error)
    assert endpoint.breaker.failures == 2


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


async def end_by(endpoint: Endpoint, error: MeshError) -> None:
    with pytest.raises(type(error)):
        async with endpoint.busy():
            raise error


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (lost(), BreakerState.OPEN),
        (Draining("leaving"), BreakerState.OPEN),
        (lost(grpc.StatusCode.CANCELLED), BreakerState.CLOSED),
        (NoReplica("x"), BreakerState.CLOSED),
    ],
)
async def test_only_an_instance_that_is_gone_is_ejected_at_once(
    error: MeshError, state: BreakerState
) -> None:
    stand = Stand()
    await stand.add(1)
    (endpoint,) = (await stand.started()).all("generation")
    await end_by(endpoint, error)
    assert endpoint.breaker.state is state


async def test_an_ejected_endpoint_comes_last_and_the_least_bad_of_them_first() -> None:
    stand = Stand()
    for number in (1, 2, 3):
        await stand.add(number)
    backends = await stand.started()
    first, second, third = backends.all("generation")
    for endpoint in (first, first, second):
        await end_by(endpoint, lost())

    async with third.busy():
        assert backends.by_preference("generation") == [third, second, first]


async def test_the_last_endpoint_is_never_ejected() -> None:
    stand = Stand()
    await stand.add(1)
    backends = await stand.started()
    (endpoint,) = backends.all("generation")
    await end_by(endpoint, lost())
    assert backends.by_preference("generation") == [endpoint]


async def test_a_lost_endpoint_is_tried_soon_after_its_connection_is_back() -> None:
    stand = Stand()
    await stand.add(1)
    backends = await stand.started()
    (endpoint,) = backends.all("generation")
    channel = stand.channels["host:1"]
    endpoint.breaker = long_open()
    await end_by(endpoint, lost())
    channel.change(grpc.ChannelConnectivity.CONNECTING)
    await asyncio.sleep(0)
    assert endpoint.breaker.retry_in_s > BreakerPolicy.reconnected_s

    channel.change(grpc.ChannelConnectivity.READY)
    async with asyncio.timeout(30):
        while endpoint.breaker.retry_in_s > BreakerPolicy.reconnected_s:
            await asyncio.sleep(0.001)
    assert endpoint.breaker.retry_in_s > 0
    await backends.close()


def long_open() -> Breaker:
    breaker = Breaker(BreakerPolicy(backoff_min_s=1000.0, backoff_max_s=1000.0))
    breaker.admit().failed(at_once=True)
    return breaker


async def test_an_endpoint_is_tried_again_by_one_call_that_can_be_repeated() -> None:
    stand = Stand()
    for number in (1, 2):
        await stand.add(number)
    backends = await stand.started()
    sound, tried = backends.all("generation")
    clock = 0.0
    tried.breaker = Breaker(now_s=lambda: clock)
    tried.breaker.admit().failed(at_once=True)
    clock += tried.breaker.retry_in_s

    assert backends.by_preference("generation", may_try=False) == [sound, tried]
    assert backends.by_preference("generation") == [tried, sound]
    async with tried.busy() as permit:
        assert backends.by_preference("generation") == [sound, tried]
        permit.answered()
        assert tried.breaker.state is BreakerState.CLOSED


async def test_a_call_that_is_given_up_says_nothing_about_its_endpoint() -> None:
    stand = Stand()
    await stand.add(1)
    (endpoint,) = (await stand.started()).all("generation")
    for _ in range(20):
        with pytest.raises(asyncio.CancelledError):
            async with endpoint.busy():
                raise asyncio.CancelledError
    assert (endpoint.breaker.failures, endpoint.outstanding) == (0, 0)


def test_the_order_of_instances_for_a_key_ignores_those_that_come_and_go() -> None:
    instances = [f"generation-{number}" for number in range(8)]

    def order(key: str, ids: list[str]) -> list[str]:
        return sorted(ids, key=lambda each: rendezvous_weight(key, each))

    assert order("a", instances[:5]) == [i for i in order("a", instances) if i in instances[:5]]
    assert len({order(f"key-{number}", instances)[0] for number in range(100)}) == 8
