"""What a hostile or broken client may do to a gateway, each as one function.

Every attack takes the address of the gateway (those on HTTP, of its HTTP port), goes on for so many
seconds, and returns how its calls ended. `python -m tests.chaos.attacks NAME ADDRESS SECONDS` runs
one in a process of its own, so that what it costs here is not what it costs the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, TokenInput
from mlxmesh.telemetry.v1.events_pb2 import Event, PublishEventsRequest
from tests.chaos.raw_http2 import message, raw_connection

Outcomes = Counter[str]
Attack = Callable[[str, float], Awaitable[Outcomes]]

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


def empty_chat_messages(size_bytes: int = 16 * MIB - 64) -> bytes:
    """A request of millions of empty messages."""
    return field(number_of(GenerateRequest, "chat"), b"\x0a\x00" * (size_bytes // 2))


async def _calls(
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


async def many_elements(address: str, for_s: float) -> Outcomes:
    """16 MB of empty chat messages."""
    return await _calls(address, for_s, GENERATE, empty_chat_messages)


async def compressed_elements(address: str, for_s: float) -> Outcomes:
    """The same, 16 KB on the wire."""
    gzip = grpc.Compression.Gzip
    return await _calls(address, for_s, GENERATE, empty_chat_messages, compression=gzip)


async def unknown_fields(address: str, for_s: float) -> Outcomes:
    """Millions of fields that the contract does not know."""
    return await _calls(address, for_s, COUNT_TOKENS, lambda: b"\xfa\x3f\x00" * (5 * MIB))


async def packed_numbers(address: str, for_s: float) -> Outcomes:
    """Sixteen million token ids."""
    number = number_of(GenerateRequest, "tokens")
    ids = number_of(TokenInput, "token_ids")
    return await _calls(
        address, for_s, GENERATE, lambda: field(number, field(ids, bytes(16 * MIB - 64)))
    )


async def map_entries(address: str, for_s: float) -> Outcomes:
    """Millions of entries of logit_bias."""
    number = number_of(GenerateRequest, "sampling")
    return await _calls(address, for_s, GENERATE, lambda: field(number, b"\x4a\x00" * (8 * MIB)))


async def just_legal_lists(address: str, for_s: float) -> Outcomes:
    """Small requests with as many elements as the rules allow, a hundred at once."""

    def content() -> bytes:
        return field(number_of(GenerateRequest, "chat"), b"\x0a\x00" * 10_000)

    return await _calls(address, for_s, GENERATE, content, at_once=100)


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
        calls = (watch(one, *paths[each % len(paths)]) for each in range(count))
        statuses = _calls(address, for_s, STATUS, bytes)
        await asyncio.gather(*calls, statuses, watch(other, WATCH_EVENTS, b""))
    return outcomes


async def empty_spans(address: str, for_s: float) -> Outcomes:
    """4 MiB of empty spans at once."""
    spans = field(1, field(2, b"\x12\x00" * (2 * MIB - 64)))
    return await _calls(address, for_s, TRACES, lambda: spans)


async def large_service_names(address: str, for_s: float) -> Outcomes:
    """Processes with names of 3 MB, a new one each time."""
    until_s, outcomes = time.monotonic() + for_s, Counter[str]()
    number = 0
    while time.monotonic() < until_s:
        number += 1
        name = f"{number:08d}" + "x" * (3 * MIB)
        traces, metrics = ExportTraceServiceRequest(), ExportMetricsServiceRequest()
        of_traces, of_metrics = traces.resource_spans.add(), metrics.resource_metrics.add()
        for resource in (of_traces.resource, of_metrics.resource):
            resource.attributes.add(key="service.name").value.string_value = name
        span = of_traces.scope_spans.add().spans.add(trace_id=number.to_bytes(16, "big"))
        span.span_id = bytes(8)
        metric = of_metrics.scope_metrics.add().metrics.add(name="a.gauge")
        metric.gauge.data_points.add(as_int=1)
        for path, request in ((TRACES, traces), (METRICS, metrics)):
            encoded = request.SerializeToString()
            outcomes += await _calls(address, 0.01, path, lambda e=encoded: e, at_once=1)
    return outcomes


def broken_metrics() -> ExportMetricsServiceRequest:
    """Metrics that no page can show: wrong buckets, no name, ids of the wrong size."""
    request = ExportMetricsServiceRequest()
    one = request.resource_metrics.add()
    one.resource.attributes.add(key="service.name").value.string_value = "broken"
    metrics = one.scope_metrics.add().metrics
    for name in ("wrong.buckets", "", "1 illegal\nname"):
        point = metrics.add(name=name).histogram.data_points.add(count=3)
        point.explicit_bounds.extend([1, 2])
        point.bucket_counts.extend([1] if name else [1, 1, 1])
    exemplar = metrics.add(name="long.ids").sum.data_points.add(as_int=1).exemplars.add()
    exemplar.trace_id = exemplar.span_id = bytes(200)
    return request


async def many_series(address: str, for_s: float) -> Outcomes:
    """Broken metrics, and as many processes and series as fit."""
    until_s, outcomes = time.monotonic() + for_s, Counter[str]()
    broken = broken_metrics().SerializeToString()
    outcomes += await _calls(address, 0.01, METRICS, lambda: broken, at_once=1)
    process = 0
    while time.monotonic() < until_s:
        request = ExportMetricsServiceRequest()
        for _ in range(20):
            process += 1
            one = request.resource_metrics.add()
            attribute = one.resource.attributes.add(key="service.instance.id")
            attribute.value.string_value = f"process-{process}"
            for number in range(50):
                metric = one.scope_metrics.add().metrics.add(name=f"a.gauge.{number}")
                for series in range(5):
                    point = metric.gauge.data_points.add(as_int=series)
                    point.attributes.add(key="series").value.string_value = str(series)
        encoded = request.SerializeToString()
        outcomes += await _calls(address, 0.01, METRICS, lambda e=encoded: e, at_once=1)
    return outcomes


async def large_events(address: str, for_s: float) -> Outcomes:
    """Events that bring megabytes which the contract does not know."""
    until_s, outcomes = time.monotonic() + for_s, Counter[str]()
    number = 0
    while time.monotonic() < until_s:
        number += 1
        event = Event(
            event_id=f"{number:024x}", name="model.deleted", service="m", instance_id="m-1"
        )
        event.time.GetCurrentTime()
        event.model_deleted.model = "pocket"
        request = PublishEventsRequest(events=[event]).SerializeToString()
        encoded = request + field(1000, bytes(15 * MIB))
        outcomes += await _calls(address, 0.01, PUBLISH, lambda e=encoded: e, at_once=1)
    return outcomes


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        many_elements,
        compressed_elements,
        unknown_fields,
        packed_numbers,
        map_entries,
        just_legal_lists,
        half_sent_messages,
        silent_connections,
        slow_readers,
        reset_streams,
        large_metadata,
        watchers,
        empty_spans,
        large_service_names,
        many_series,
        large_events,
    )
}
"""Those on the gRPC port."""
HTTP_ATTACKS: dict[str, Attack] = {
    attack.__name__: attack for attack in (silent_connections, slow_http_requests)
}
"""Those on the HTTP port."""


def main() -> None:
    """Runs one attack and prints how its calls ended, as JSON."""
    name, address, seconds = sys.argv[1:]
    attack = {**HTTP_ATTACKS, **ATTACKS}[name]
    sys.stdout.write(json.dumps(asyncio.run(attack(address, float(seconds)))) + "\n")


if __name__ == "__main__":
    main()
