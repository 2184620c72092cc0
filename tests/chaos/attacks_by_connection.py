"""Attacks by what a client does with its connections and streams, whatever is in them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from tests.chaos.attack_calls import (
    GENERATE,
    MIB,
    REFLECTION,
    STATUS,
    TRACES,
    WATCH_EVENTS,
    WATCH_HEALTH,
    Outcomes,
    calls,
)
from tests.chaos.raw_http2 import message, raw_connection


async def half_sent_messages(address: str, for_s: float, *, streams: int = 80) -> Outcomes:
    """Messages of 15 MB whose end never comes."""
    body = message(bytes(15 * MIB - 1024), announced_bytes=15 * MIB)
    until_s = time.monotonic() + for_s
    async with raw_connection(address) as connection:
        sent: set[int] = set()

        async def begin_again(path: str) -> None:
            while time.monotonic() < until_s and not connection.is_closed:
                stream = connection.start(path)
                sent.add(stream)
                await connection.send(stream, body)
                while stream not in connection.ended and time.monotonic() < until_s:
                    await asyncio.sleep(0.1)

        paths = (GENERATE, TRACES, "/grpc.health.v1.Health/Check", "/no.such.Service/Method")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await asyncio.gather(
                    *(begin_again(paths[number % len(paths)]) for number in range(streams))
                )
        return Counter(begun=len(sent), ended=len(connection.ended))


async def silent_connections(address: str, for_s: float, *, count: int = 400) -> Outcomes:
    """Connections that never say a word."""
    host, _, port = address.rpartition(":")
    outcomes: Outcomes = Counter()

    async def hold() -> None:
        try:
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            outcomes["refused"] += 1
            return
        outcomes["open"] += 1
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(for_s):
                await reader.read()
                outcomes["closed"] += 1
        writer.close()

    await asyncio.gather(*(hold() for _ in range(count)))
    return outcomes


async def slow_http_requests(address: str, for_s: float, *, count: int = 400) -> Outcomes:
    """HTTP requests that come a byte a second, and never to their end."""
    host, _, port = address.rpartition(":")
    outcomes: Outcomes = Counter()
    until_s = time.monotonic() + for_s

    async def drip() -> None:
        try:
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            while time.monotonic() < until_s:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(1)
            outcomes["held"] += 1
            writer.close()
        except OSError:
            outcomes["closed"] += 1

    await asyncio.gather(*(drip() for _ in range(count)))
    return outcomes


async def slow_readers(address: str, for_s: float, *, count: int = 300) -> Outcomes:
    """Streams that nobody reads."""
    asked = GenerateRequest(model="pocket", prompt="word " * 2000, max_tokens=2000)
    body = message(asked.SerializeToString())
    async with raw_connection(address) as one, raw_connection(address) as other:
        for _ in range(count // 2):
            for connection in (one, other):
                await connection.send(connection.start(GENERATE), body, ends=True)
        await asyncio.sleep(for_s)
        return Counter(begun=count, ended=len(one.ended) + len(other.ended))


async def reset_streams(address: str, for_s: float) -> Outcomes:
    """Calls that are given up as soon as they were made."""
    until_s, outcomes = time.monotonic() + for_s, Counter[str]()
    body = message(GenerateRequest(model="pocket", prompt="a b c").SerializeToString())
    while time.monotonic() < until_s:
        async with raw_connection(address) as connection:
            for _ in range(2000):
                if connection.is_closed or time.monotonic() >= until_s:
                    break
                stream = connection.start(GENERATE)
                await connection.send(stream, body, ends=True)
                connection.reset(stream)
                await connection.flush()
                outcomes["reset"] += 1
    return outcomes


async def large_metadata(address: str, for_s: float) -> Outcomes:
    """Calls with more metadata than is taken, and with names nobody should count by."""
    until_s, outcomes = time.monotonic() + for_s, Counter[str]()
    async with aio.insecure_channel(address) as channel:
        number = 0
        while time.monotonic() < until_s:
            number += 1
            large = (("x-large", "x" * (60_000 if number % 2 else 100)),)
            caller = (("mlxmesh-caller", f"caller-{number}"),)
            call: Any = channel.unary_unary(f"/no.such.Service/Method{number}")
            try:
                await call(b"", timeout=10, metadata=large + caller)
            except aio.AioRpcError as error:
                outcomes[error.code().name] += 1
    return outcomes


async def watchers(address: str, for_s: float, *, count: int = 200) -> Outcomes:
    """Watches of events and of health, and open reflection streams, by the hundred."""
    outcomes: Outcomes = Counter()

    async def watch(channel: aio.Channel, path: str, encoded: bytes) -> None:
        call: Any = channel.unary_stream(path)(encoded, timeout=for_s)
        try:
            async for _ in call:
                outcomes["messages"] += 1
        except aio.AioRpcError as error:
            outcomes[error.code().name] += 1

    name = health_pb2.HealthCheckRequest(service="x" * 1000).SerializeToString()
    async with aio.insecure_channel(address) as one, aio.insecure_channel(address) as other:
        paths = ((WATCH_EVENTS, b""), (WATCH_HEALTH, name), (REFLECTION, b""))
        watches = (watch(one, *paths[each % len(paths)]) for each in range(count))
        statuses = calls(address, for_s, STATUS, bytes)
        await asyncio.gather(*watches, statuses, watch(other, WATCH_EVENTS, b""))
    return outcomes
