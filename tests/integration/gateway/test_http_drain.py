"""The drain of the HTTP port: beside that of gRPC, and with errors for streams that it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import httpx2
import pytest

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from mlxmesh_client import MeshClient
from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_shared.errors import Draining, MeshError
from tests.integration.gateway.conftest import Stand
from tests.integration.gateway.http_harness import GENERATE, serving


class EndlessDoor:
    """Writes a message now and then."""

    async def serve(self, call: PublicCall) -> bytes | None:
        while True:
            await call.write(b"")
            await asyncio.sleep(0.05)


async def stream(exchange: Exchange) -> None:
    async def write(_message: bytes) -> None:
        await exchange.event("1")

    try:
        await exchange.calls.stream(GENERATE, GenerateRequest(), write)
    except MeshError as error:
        await exchange.event(error.reason)
    await exchange.end_events()


async def test_streams_that_a_drain_ends_get_an_error_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(stream, door=EndlessDoor()) as served, served.streaming() as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "data: 1"
        served.start_drain()
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: DRAINING"
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


async def test_both_ports_drain_at_the_same_time(stand: Stand) -> None:
    grace_s = 3
    generation = await stand.generation()
    generation.go_on.clear()
    async with stand.running_gateway(drain_grace_s=grace_s) as (address, leaving):
        url = f"http://{await stand.http(address)}"
        client = await stand.client(address, attempts=1)
        body = {"model": "pocket", "prompt": "a b c", "stream": True}
        async with (
            asyncio.timeout(30),
            httpx2.AsyncClient() as http,
            http.stream("POST", f"{url}/v1/completions", json=body) as answer,
        ):
            lines = answer.aiter_lines()
            await anext(lines)
            grpc_ended = asyncio.create_task(_end_of_grpc_stream(client))
            async with asyncio.timeout(30):
                while len(generation.requests) < 2:
                    await asyncio.sleep(0.01)
            leaving.set()
            await _until_refused(f"{url}/healthz")
            assert not grpc_ended.done()
            events = [line async for line in lines if line.startswith("data: {")]
            http_ended_s = time.monotonic()
            assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "draining"
            # One after the other, they would end a whole grace apart.
            assert abs(await grpc_ended - http_ended_s) < grace_s / 2


async def _end_of_grpc_stream(client: MeshClient) -> float:
    with pytest.raises(Draining):
        async for _ in client.generate("pocket", prompt="a b c"):
            pass
    return time.monotonic()


async def _until_refused(url: str) -> None:
    async with asyncio.timeout(30), httpx2.AsyncClient() as client:
        while True:
            try:
                await client.get(url, headers={"connection": "close"})
            except httpx2.ConnectError:
                return
            await asyncio.sleep(0.02)


async def test_a_handler_that_does_not_end_is_left_without_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def wait(exchange: Exchange) -> None:
        await exchange.event("1")
        await asyncio.sleep(60)

    async with asyncio.timeout(20), serving(wait) as served, served.streaming() as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "data: 1"
        served.start_drain()
        with pytest.raises(httpx2.TransportError):
            async for _ in lines:
                pass
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []
