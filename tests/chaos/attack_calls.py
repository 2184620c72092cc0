"""What attacks are made of: fields on the wire, and calls again and again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
from grpc import aio

Outcomes = Counter[str]
Attack = Callable[[str, float], Coroutine[Any, Any, Outcomes]]

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
COUNT_TOKENS = "/mlxmesh.generation.v1.GenerationService/CountTokens"
PUBLISH = "/mlxmesh.telemetry.v1.TelemetryService/PublishEvents"
WATCH_EVENTS = "/mlxmesh.telemetry.v1.TelemetryService/WatchEvents"
STATUS = "/mlxmesh.telemetry.v1.TelemetryService/GetMeshStatus"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
WATCH_HEALTH = "/grpc.health.v1.Health/Watch"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
MIB = 2**20
AT_ONCE = 8


def field(number: int, content: bytes) -> bytes:
    """One field of bytes, a message or text, as the wire has it."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    """A number as the wire has it."""
    low = b""
    while number > 0x7F:
        low += bytes([number & 0x7F | 0x80])
        number >>= 7
    return low + bytes([number])


def number_of(cls: Any, name: str) -> int:
    """A field's number."""
    return cls.DESCRIPTOR.fields_by_name[name].number


async def calls(
    address: str,
    for_s: float,
    path: str,
    content: Callable[[], bytes],
    *,
    compression: grpc.Compression | None = None,
    at_once: int = AT_ONCE,
) -> Outcomes:
    """The same call again and again, some at once, each on a connection of its own."""
    outcomes: Outcomes = Counter()
    encoded, until_s = content(), time.monotonic() + for_s

    async def call_again() -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        async with aio.insecure_channel(address, options=options) as channel:
            call: Any = channel.unary_unary(path)
            while time.monotonic() < until_s:
                try:
                    await call(encoded, timeout=30, compression=compression)
                    outcomes["OK"] += 1
                except aio.AioRpcError as error:
                    outcomes[error.code().name] += 1

    await asyncio.gather(*(call_again() for _ in range(at_once)))
    return outcomes
