"""Attach and cancel are relayed to the instance that the hash of the request_id names first."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.door.principal import authenticate
from mlxmesh_gateway.door.routes import public_routes
from mlxmesh_gateway.upstream.backends import Backends
from mlxmesh_gateway.upstream.relay import Relay
from mlxmesh_gateway.upstream.traffic import GatewayTraffic
from mlxmesh_shared.errors import NotFound
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.tls.identity import peer_identity
from tests.fakes.registry import InMemoryRegistry

ROUTES = {route.path.rpartition("/")[2]: route for route in public_routes()}
IDS = [f"id-{number}" for number in range(8)]


class FakeMesh:
    """Three instances, and who of them was asked; those in `unknown` know no generation."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.unknown: set[str] = set()

    def open(self, address: str, *, role: str = "", window_bytes: int | None = None) -> Any:
        return FakeChannel(self, address)

    def answer(self, address: str) -> bytes:
        self.asked.append(address)
        if address in self.unknown:
            raise NotFound("no such generation")
        return address.encode()


class FakeChannel:
    def __init__(self, mesh: FakeMesh, address: str) -> None:
        self._mesh, self._address = mesh, address

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.READY

    def unary_unary(self, path: str) -> Any:
        async def call(_request: bytes, **_options: Any) -> bytes:
            return self._mesh.answer(self._address)

        return call

    def unary_stream(self, path: str) -> Any:
        return lambda _request, **_options: FakeStream(self._mesh, self._address)

    async def close(self, grace: float | None = None) -> None: ...


class FakeStream:
    """One message, then the end."""

    def __init__(self, mesh: FakeMesh, address: str) -> None:
        self._mesh, self._address, self._read = mesh, address, False

    async def read(self) -> Any:
        if self._read:
            return aio.EOF
        self._read = True
        return self._mesh.answer(self._address)

    def cancel(self) -> None: ...


@asynccontextmanager
async def relaying(mesh: FakeMesh) -> AsyncGenerator[tuple[Relay, Backends]]:
    registry = InMemoryRegistry()
    for number in range(3):
        await registry.register(Instance("generation", f"g-{number}", f"host:{number}", pid=number))

    async def ignore(_service: str, _known: bool) -> None: ...

    backends = Backends(registry, ["generation"], on_change=ignore, open_=mesh.open)
    await backends.start()
    try:
        yield Relay(backends, GatewayTraffic(), resume_wait_s=1.0), backends
    finally:
        await backends.close()


def public_call(method: str, request_id: str) -> PublicCall:
    return PublicCall(
        route=ROUTES[method],
        principal=authenticate(peer_identity({}), (), peer="ipv4:10.0.0.7:1"),
        request=b"",
        request_id=request_id,
        hedge_after_s=None,
        deadline_s=float("inf"),
        metadata=(),
    )


async def relay_to(relay: Relay, call: PublicCall) -> list[bytes]:
    if not call.route.streams:
        return [await relay.unary(call)]
    written: list[bytes] = []

    async def write(message: bytes) -> None:
        written.append(message)

    await relay.stream(call, write)
    return written


@pytest.mark.parametrize("method", ["AttachGeneration", "CancelGeneration"])
async def test_only_the_hashed_instance_is_asked_when_it_answers(method: str) -> None:
    mesh = FakeMesh()
    async with relaying(mesh) as (relay, backends):
        hashed = [backends.by_key("generation", f"# {one}")[0].instance.address for one in IDS]
        answers = [await relay_to(relay, public_call(method, one)) for one in IDS]
    assert mesh.asked == hashed
    assert answers == [[address.encode()] for address in hashed]
    assert len(set(hashed)) > 1


@pytest.mark.parametrize("method", ["AttachGeneration", "CancelGeneration"])
async def test_the_others_are_asked_when_the_hashed_instance_has_no_such_generation(
    method: str,
) -> None:
    mesh = FakeMesh()
    async with relaying(mesh) as (relay, backends):
        order = [one.instance.address for one in backends.by_key("generation", "# id")]
        mesh.unknown = set(order[:2])
        assert await relay_to(relay, public_call(method, "id")) == [order[2].encode()]
        mesh.unknown = set(order)
        with pytest.raises(NotFound):
            await relay_to(relay, public_call(method, "id"))
    assert (mesh.asked[0], mesh.asked[3]) == (order[0], order[0])
    assert sorted(mesh.asked[3:]) == sorted(order)
