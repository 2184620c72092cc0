"""What every sink promises, the fan-out itself and the tests' own included."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlxmesh_gateway.otlp.exposition import expose
from mlxmesh_gateway.otlp.fan_out import FanOut
from mlxmesh_gateway.otlp.lane import Lane
from mlxmesh_gateway.otlp.messages import item_count
from mlxmesh_gateway.otlp.recent_traces import KeepOptions, RecentTraces
from mlxmesh_gateway.otlp.selection import Selection
from mlxmesh_gateway.otlp.services import otlp_handlers
from mlxmesh_gateway.otlp.sinks.collector import CollectorSink
from mlxmesh_gateway.otlp.sinks.console import ConsoleSink
from mlxmesh_gateway.otlp.sinks.json_lines import JsonLinesSink
from mlxmesh_gateway.otlp.sinks.prometheus import PrometheusSink
from mlxmesh_gateway.otlp.tail_rules import TailOptions, TailRules
from mlxmesh_shared.settings.sinks import SinkSettings
from mlxmesh_shared.telemetry.sink import TelemetrySink
from tests.fakes.telemetry import RecordingSink, counter, logs, metrics, span, traces

Arrived = Callable[[], str]
"""What the receiver of a sink got so far, as text."""
Opened = tuple[TelemetrySink, Arrived]


def _names(sink: RecordingSink) -> Arrived:
    return lambda: " ".join(map(str, sink.taken))


@asynccontextmanager
async def recording(_folder: Path) -> AsyncGenerator[Opened]:
    sink = RecordingSink()
    yield sink, _names(sink)


@asynccontextmanager
async def collector(_folder: Path) -> AsyncGenerator[Opened]:
    received = RecordingSink()
    server = aio.server()
    server.add_generic_rpc_handlers(otlp_handlers(received))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sink = CollectorSink(SinkSettings(kind="otlp", target=f"127.0.0.1:{port}"))
    try:
        yield sink, _names(received)
    finally:
        await sink.close()
        await server.stop(0)


@asynccontextmanager
async def json_lines(folder: Path) -> AsyncGenerator[Opened]:
    sink = JsonLinesSink(folder / "deep" / "t.jsonl", max_bytes=2**20, keep_files=1)
    try:
        yield sink, (folder / "deep" / "t.jsonl").read_text
    finally:
        await sink.close()


@asynccontextmanager
async def console(_folder: Path) -> AsyncGenerator[Opened]:
    stream = io.StringIO()
    sink = ConsoleSink(stream)
    try:
        yield sink, stream.getvalue
    finally:
        await sink.close()


@asynccontextmanager
async def prometheus(_folder: Path) -> AsyncGenerator[Opened]:
    sink = PrometheusSink()
    try:
        yield sink, lambda: expose(sink.processes(), "")[0].decode()
    finally:
        await sink.close()


@asynccontextmanager
async def fan_out(_folder: Path) -> AsyncGenerator[Opened]:
    behind = RecordingSink()
    lane = Lane("test", behind, Selection(("traces", "metrics", "logs")))
    recent, tail = RecentTraces(KeepOptions()), TailRules(TailOptions())
    sink = FanOut([lane], recent, tail, instance_id="gateway-1")
    task = asyncio.create_task(sink.run())
    try:
        yield sink, _names(behind)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


SINKS = [recording, collector, json_lines, console, prometheus, fan_out]


@pytest.fixture(params=SINKS, ids=lambda make: make.__name__)
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Opened]:
    async with request.param(tmp_path) as made:
        yield made


async def arrives(arrived: Arrived, word: str) -> None:
    async with asyncio.timeout(30):
        while word not in arrived():
            await asyncio.sleep(0.01)


async def test_metrics_arrive_with_whose_they_are(opened: Opened) -> None:
    sink, arrived = opened
    await sink.metrics(metrics(counter("a_metric", 41), service="engine"))
    await arrives(arrived, "a_metric")
    await arrives(arrived, "engine-1")
    await arrives(arrived, "41")


async def test_spans_and_records_are_taken(opened: Opened, request: pytest.FixtureRequest) -> None:
    sink, arrived = opened
    await sink.traces(traces(span(1, "a span")))
    await sink.logs(logs("warn"))
    if request.node.callspec.params["opened"] is not prometheus:
        await arrives(arrived, "a span")
        await arrives(arrived, "a record of warn")


async def test_empty_requests_are_fine(opened: Opened) -> None:
    sink, _ = opened
    await sink.traces(ExportTraceServiceRequest())
    await sink.metrics(ExportMetricsServiceRequest())
    await sink.logs(ExportLogsServiceRequest())


async def test_many_at_once_all_arrive(opened: Opened) -> None:
    sink, arrived = opened
    requests = [metrics(counter(f"metric_{number:02}", number)) for number in range(30)]
    await asyncio.gather(*(sink.metrics(request) for request in requests))
    for number in range(30):
        await arrives(arrived, f"metric_{number:02}")


async def test_json_is_what_otlp_says_it_is(tmp_path: Path) -> None:
    async with json_lines(tmp_path) as (sink, arrived):
        await sink.traces(traces(span(255, "a span", number=3, parent=2)))
        (line,) = arrived().splitlines()
    (found,) = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    ids = (found["traceId"], found["spanId"], found["parentSpanId"], found["status"]["code"])
    assert ids == (f"{255:032x}", f"{3:016x}", f"{2:016x}", 1)


async def test_a_full_file_is_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "t.jsonl", max_bytes=1500, keep_files=2)
    for number in range(20):
        await sink.traces(traces(span(1, f"span {number:02}")))
    files = [tmp_path / name for name in ("t.jsonl.2", "t.jsonl.1", "t.jsonl")]
    assert sorted(files) == sorted(tmp_path.iterdir())
    assert all(file.stat().st_size <= 1500 for file in files)
    kept = [
        line.split('"name":"')[1][:7] for file in files for line in file.read_text().splitlines()
    ]
    assert kept == [f"span {number:02}" for number in range(20 - len(kept), 20)]


async def test_a_disk_that_refuses_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sink = JsonLinesSink(tmp_path / "file" / "t.jsonl", max_bytes=1000, keep_files=1)
    with pytest.raises(OSError, match="file"):
        await sink.traces(traces(span(1)))


async def test_items_are_counted_by_what_they_are() -> None:
    counts: list[Any] = [
        item_count(traces(span(1), span(2))),
        item_count(metrics(counter("a", 1), counter("b", 2))),
        item_count(logs("info")),
    ]
    assert counts == [2, 2, 1]
