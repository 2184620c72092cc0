"""Starting, health, and a stop that loses no call."""

import asyncio
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlxmesh.generation.v1 import generation_pb2_grpc as pb_grpc
from mlxmesh_shared.errors import Draining, IllegalState, MeshError, NotFound
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from tests.draining import drain
from tests.fakes.serving import serving

from .conftest import SERVICE, Context, Scripted, Serve, complete, generate

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def server_of(servicer: Scripted, listen: str = "127.0.0.1:0") -> MeshServer:
    return MeshServer(
        listen=listen,
        services=[(pb_grpc.add_GenerationServiceServicer_to_server, servicer)],
        service_names=[SERVICE],
    )


async def test_health_follows_what_the_process_says() -> None:
    server = server_of(Scripted())
    async with serving(server) as address, open_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        async def health(service: str) -> int:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            return answer.status

        assert [await health(""), await health(SERVICE)] == [NOT_SERVING, NOT_SERVING]
        await server.set_serving()
        assert [await health(""), await health(SERVICE)] == [SERVING, SERVING]
        await server.set_not_serving()
        assert [await health(""), await health(SERVICE)] == [NOT_SERVING, NOT_SERVING]
        with pytest.raises(NotFound):
            await health("no.such.Service")


async def test_a_taken_port_is_refused(serve: Serve) -> None:
    served = await serve()

    with pytest.raises(IllegalState, match="cannot listen on"):
        await server_of(Scripted(), listen=served.server.address).start()


async def test_a_drain_lets_running_calls_finish(serve: Serve) -> None:
    served = await serve()
    go_on = asyncio.Event()

    async def wait(_request: Any, _context: Context) -> None:
        await go_on.wait()

    served.servicer.act = wait
    call = served.stub.Generate(generate())
    answers = aiter(call)
    assert (await anext(answers)).sequence == 1
    draining = asyncio.create_task(served.server.drain(grace_s=20, settle_s=0))
    await asyncio.sleep(0.2)
    assert not draining.done()
    go_on.set()

    assert [answer.sequence async for answer in answers] == [2, 3]
    async with asyncio.timeout(30):
        await draining


async def test_what_outlives_the_grace_ends_as_draining(serve: Serve) -> None:
    served = await serve()
    cleaned = asyncio.Event()

    async def wait(_request: Any, _context: Context) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    served.servicer.act = wait
    stream = aiter(served.stub.Generate(generate()))
    unary = asyncio.ensure_future(served.stub.Complete(complete()))
    assert (await anext(stream)).sequence == 1
    while len(served.servicer.requests) < 2:
        await asyncio.sleep(0.01)

    async with asyncio.timeout(30):
        await served.server.drain(grace_s=0.2, settle_s=0)

    with pytest.raises(Draining) as caught:
        async for _ in stream:
            pass
    with pytest.raises(Draining):
        await unary
    assert caught.value.retryable
    assert cleaned.is_set()


async def test_a_drain_waits_for_what_cancelled_calls_still_do(serve: Serve) -> None:
    served = await serve()
    cancelled, go_on, cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(_request: Any, _context: Context) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
            await go_on.wait()
            cleaned.set()

    served.servicer.act = wait
    call = served.stub.Generate(generate())
    assert (await anext(aiter(call))).sequence == 1
    call.cancel()
    await cancelled.wait()
    draining = asyncio.create_task(served.server.drain(grace_s=0, settle_s=0))
    assert await asyncio.wait({draining}, timeout=2) == (set(), {draining})
    go_on.set()
    async with asyncio.timeout(30):
        await draining
    assert cleaned.is_set()


async def test_a_health_watch_does_not_hold_up_a_drain(serve: Serve) -> None:
    served = await serve()
    stub: Any = health_pb2_grpc.HealthStub(served.channel)
    statuses = aiter(stub.Watch(health_pb2.HealthCheckRequest()))
    assert (await anext(statuses)).status == SERVING

    async with asyncio.timeout(30):
        await served.server.drain(grace_s=60, settle_s=0.1)

    assert (await anext(statuses)).status == NOT_SERVING
    with pytest.raises(Draining):
        await anext(statuses)


async def test_no_call_is_lost_while_instances_are_replaced() -> None:
    """Callers that follow health lose nothing over several rolling restarts."""
    addresses: list[str] = []
    codes: list[grpc.StatusCode] = []
    calls = 0
    stop = asyncio.Event()

    async def act(_request: Any, _context: Context) -> None:
        await asyncio.sleep(0.005)

    async def keep_calling() -> None:
        nonlocal calls
        while not stop.is_set():
            address = addresses[-1]
            async with open_channel(address) as channel:
                stub = pb_grpc.GenerationServiceStub(channel)
                while address == addresses[-1] and not stop.is_set():
                    calls += 1
                    try:
                        await stub.Complete(complete())
                    except MeshError as error:
                        codes.append(error.code)

    async def fresh() -> MeshServer:
        server = server_of(Scripted(act=act))
        addresses.append(await server.start())
        await server.set_serving()
        return server

    current = await fresh()
    callers = [asyncio.create_task(keep_calling()) for _ in range(8)]
    for _ in range(4):
        await asyncio.sleep(0.1)
        old, current = current, await fresh()
        await old.drain(grace_s=10, settle_s=0.5)
    stop.set()
    await asyncio.gather(*callers)
    await current.drain(grace_s=0, settle_s=0)

    assert calls > 100
    assert codes == []


async def test_drain_tells_the_process_and_says_so_again() -> None:
    server = server_of(Scripted())
    async with serving(server) as address:
        assert not server.leaving.is_set()
        for _ in range(2):
            await drain(address)
            assert server.leaving.is_set()


async def test_a_port_that_is_handed_over_is_refused_to_a_process_that_was_not_asked() -> None:
    options = ServerOptions(hands_over_port=True, max_connection_age_s=0.1)
    first = MeshServer(services=[], service_names=[], options=options)
    async with serving(first) as address:
        successor = partial(
            MeshServer, listen=address, services=[], service_names=[], options=options
        )
        with pytest.raises(IllegalState, match="cannot listen on"):
            await successor().start()

        await first.hand_over()

        async with serving(successor()) as listening:
            assert listening == address
