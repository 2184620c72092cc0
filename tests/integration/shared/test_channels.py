"""Channels: errors as classes on every kind of call, fast loss, fast return, one per address."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Generator
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlxmesh.engine.v1 import engine_pb2 as engine_pb
from mlxmesh.engine.v1 import engine_pb2_grpc as engine_grpc
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    EngineLost,
    QueueFull,
    ServiceUnavailable,
)
from mlxmesh_shared.rpc.channels import ChannelPool, open_channel, wait_ready
from mlxmesh_shared.rpc.server import MeshServer
from tests.chaos.proxy import Proxy
from tests.fakes.ports import free_port
from tests.fakes.serving import serving

from .conftest import Context, Serve, complete


class Execute(engine_grpc.EngineServiceServicer):
    """Answers each request once; ends as the first Cancel says."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def Execute(
        self, request_iterator: AsyncIterator[engine_pb.ExecuteRequest], context: Context
    ) -> AsyncIterator[engine_pb.ExecuteResponse]:
        async for _ in request_iterator:
            yield engine_pb.ExecuteResponse()
            if self._error is not None:
                raise self._error
            return

    async def GetEngineInfo(
        self, request: engine_pb.GetEngineInfoRequest, context: Context
    ) -> engine_pb.GetEngineInfoResponse:
        return engine_pb.GetEngineInfoResponse()

    async def Encode(
        self, request: engine_pb.EncodeRequest, context: Context
    ) -> engine_pb.EncodeResponse:
        return engine_pb.EncodeResponse()


def engine_server(error: Exception | None = None, listen: str = "127.0.0.1:0") -> MeshServer:
    return MeshServer(
        listen=listen,
        services=[(engine_grpc.add_EngineServiceServicer_to_server, Execute(error))],
        service_names=["mlxmesh.engine.v1.EngineService"],
    )


def some_request() -> engine_pb.ExecuteRequest:
    return engine_pb.ExecuteRequest(cancel=engine_pb.Cancel(sequence_ids=[1]))


async def test_a_bidirectional_stream_fails_on_reading_and_on_writing() -> None:
    server = engine_server(EngineLost("gone"))
    async with serving(server) as address, open_channel(address) as channel:
        call = engine_grpc.EngineServiceStub(channel).Execute()
        await call.write(some_request())
        assert isinstance(await call.read(), engine_pb.ExecuteResponse)

        with pytest.raises(EngineLost):
            await call.read()
        with pytest.raises(EngineLost):
            await call.write(some_request())


async def test_writing_to_a_stream_that_ended_well_says_so() -> None:
    server = engine_server()
    async with serving(server) as address, open_channel(address) as channel:
        call = engine_grpc.EngineServiceStub(channel).Execute()
        await call.write(some_request())
        assert len([answer async for answer in call]) == 1

        with pytest.raises(ServiceUnavailable, match="the peer ended the stream"):
            await call.write(some_request())


async def test_a_deadline_that_passes(serve: Serve) -> None:
    served = await serve()

    async def wait(_request: Any, _context: Context) -> None:
        await asyncio.sleep(60)

    served.servicer.act = wait
    with pytest.raises(DeadlineExceeded):
        await served.stub.Complete(complete(), timeout=0.1)


async def test_cancelling_the_caller_is_a_cancellation_not_an_error(serve: Serve) -> None:
    served = await serve()

    async def wait(_request: Any, _context: Context) -> None:
        await asyncio.sleep(60)

    served.servicer.act = wait
    call = asyncio.ensure_future(served.stub.Complete(complete()))
    while not served.servicer.requests:
        await asyncio.sleep(0.01)
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call


async def test_the_rest_of_a_call_is_still_there(serve: Serve) -> None:
    served = await serve()

    async def full(_request: Any, _context: Context) -> None:
        raise QueueFull("full")

    served.servicer.act = full
    call = served.stub.Complete(complete())
    with pytest.raises(QueueFull):
        await call

    assert (await call.code()).name == "RESOURCE_EXHAUSTED"
    assert call.done()


async def test_nobody_listens() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(ServiceUnavailable, match="is the peer running"):
            await wait_ready(channel, 0.3)
        with pytest.raises(ServiceUnavailable) as caught:
            await engine_grpc.EngineServiceStub(channel).GetEngineInfo(
                engine_pb.GetEngineInfoRequest()
            )
        assert caught.value.retryable


async def test_a_peer_that_is_slow_to_say_hello_is_waited_for() -> None:
    async with (
        serving(engine_server()) as address,
        Proxy(address) as slow,
        open_channel(slow.address) as channel,
    ):
        slow.down.latency_s = 0.3
        await engine_grpc.EngineServiceStub(channel).GetEngineInfo(engine_pb.GetEngineInfoRequest())
        assert slow.accepted == 1


async def test_a_peer_that_never_says_hello_is_given_up() -> None:
    async with (
        serving(engine_server()) as address,
        Proxy(address) as silent,
        open_channel(silent.address) as channel,
    ):
        silent.black_hole()
        async with asyncio.timeout(20):
            with pytest.raises(ServiceUnavailable):
                await engine_grpc.EngineServiceStub(channel).GetEngineInfo(
                    engine_pb.GetEngineInfoRequest()
                )


async def test_a_peer_that_comes_back_is_found_soon() -> None:
    server = engine_server(listen=f"127.0.0.1:{free_port()}")  # nobody takes it meanwhile
    async with serving(server) as address, open_channel(address) as channel:
        await wait_ready(channel, 30)
        await server.drain(grace_s=0, settle_s=0)
        await asyncio.sleep(1)
        async with serving(engine_server(listen=address)):
            # Without our settings it takes up to 5.7 s more.
            await wait_ready(channel, 5)


async def test_a_caller_that_is_cancelled_as_its_call_ends_is_cancelled(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    def ends_cancelled(call: Any) -> Generator[Any, None, Any]:
        """As gRPC's does when the answer is there and not yet taken."""
        try:
            yield from ended.wait().__await__()
        except asyncio.CancelledError:
            ok = aio.AioRpcError(grpc.StatusCode.OK, aio.Metadata(), aio.Metadata())
            raise ok from None

    monkeypatch.setattr("grpc.aio._call.UnaryUnaryCall.__await__", ends_cancelled)
    served = await serve()

    async def ask() -> None:
        await served.stub.Complete(complete())

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()


FROZEN = """
import asyncio
from mlxmesh_shared.rpc.server import MeshServer

async def main():
    server = MeshServer(services=[], service_names=[])
    print(await server.start(), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_frozen_peer_is_noticed() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FROZEN, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        address = (await process.stdout.readline()).decode().strip()
        async with open_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            call = health.Watch(health_pb2.HealthCheckRequest())
            statuses = aiter(call)
            await anext(statuses)
            os.kill(process.pid, signal.SIGSTOP)
            # gRPC by itself would take more than a minute.
            async with asyncio.timeout(20):
                with pytest.raises(ServiceUnavailable):
                    await anext(statuses)
    finally:
        process.kill()
        await process.wait()


async def test_the_pool_has_one_channel_per_address() -> None:
    opened: list[str] = []

    def open_(address: str) -> aio.Channel:
        opened.append(address)
        return open_channel(address)

    pool = ChannelPool(open_)
    first = pool.get("127.0.0.1:1")

    assert pool.get("127.0.0.1:1") is first
    assert pool.get("127.0.0.1:2") is not first
    await pool.discard("127.0.0.1:1")
    await pool.discard("127.0.0.1:1")
    assert pool.get("127.0.0.1:1") is not first
    assert opened == ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"]
    await pool.close()
