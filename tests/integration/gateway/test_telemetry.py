"""Telemetry at a gateway: received by OTLP, fanned out, scraped, and asked for by request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from grpc import aio

from mlxmesh.telemetry.v1.telemetry_pb2 import GetTraceRequest
from mlxmesh_gateway.otlp.assembly import open_receiver
from mlxmesh_gateway.otlp.recent_traces import KeepOptions, RecentTraces
from mlxmesh_gateway.otlp.services import otlp_handlers
from mlxmesh_gateway.otlp.sinks.collector import CollectorSink
from mlxmesh_gateway.otlp.traces import Traces
from mlxmesh_shared.errors import IllegalState, TraceNotFound
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.settings import GatewaySettings
from mlxmesh_shared.settings.sinks import SinkSettings
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.telemetry import RecordingSink, counter, logs, metrics, span, traces


@asynccontextmanager
async def exporter(address: str) -> AsyncGenerator[CollectorSink]:
    """What a process of the mesh exports with, as far as a gateway can tell."""
    sink = CollectorSink(SinkSettings(kind="otlp", target=address))
    try:
        yield sink
    finally:
        await sink.close()


async def http_of(stand: Any, name: str = "gateway-1") -> str:
    (address,) = [
        one.metadata["http"]
        for one in await stand.registry.resolve("gateway")
        if one.instance_id == name
    ]
    return f"http://{address}"


async def fetch(url: str, accept: str = "") -> httpx2.Response:
    async with httpx2.AsyncClient() as client:
        return await client.get(url, headers={"accept": accept})


async def until_scraped(url: str, word: str) -> str:
    async with asyncio.timeout(20):
        while word not in (page := (await fetch(url)).text):
            await asyncio.sleep(0.02)
    return page


async def test_exported_metrics_can_be_scraped(stand: Any) -> None:
    address = await stand.gateway()
    async with exporter(address) as export:
        await export.metrics(metrics(counter("mlxmesh.tokens", 5)))
        url = f"{await http_of(stand)}/metrics"
        page = await until_scraped(url, "mlxmesh_tokens_total")
    assert 'mlxmesh_tokens_total{instance="engine-1",service="engine"} 5.0' in page
    assert (await fetch(url)).headers["content-type"].startswith("text/plain")
    openmetrics = await fetch(url, "application/openmetrics-text; version=1.0.0")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


async def test_the_http_port_says_that_it_is_there(stand: Any) -> None:
    await stand.gateway(telemetry_sinks=())
    url = await http_of(stand)
    assert (await fetch(f"{url}/healthz")).text == "ok\n"
    refused = await fetch(f"{url}/metrics")
    assert refused.status_code == 404
    assert "telemetry_sinks" in refused.text
    assert (await fetch(f"{url}/none")).status_code == 404


async def test_without_a_port_there_is_no_http(stand: Any) -> None:
    await stand.gateway(http_listen="")
    assert await http_of(stand) == "http://"


async def test_the_trace_of_a_request_is_there(stand: Any) -> None:
    address = await stand.gateway()
    client = await stand.client(address)
    async with exporter(address) as export:
        decode = span(7, "decode", number=2, parent=1, start_s=100.2, failed=True)
        await export.traces(traces(decode, service="engine"))
        await export.traces(traces(span(7, "Generate", request_id="r", took_s=1)))
    response = await client.trace("r")
    told = [(each.name, each.service, each.instance_id) for each in response.spans]
    assert told == [("Generate", "gateway", "gateway-1"), ("decode", "engine", "engine-1")]
    first, second = response.spans
    assert (first.start_unix_nano, first.duration_nano) == (100 * 10**9, 10**9)
    assert dict(first.attributes) == {"mlxmesh.request_id": "r"}
    assert (second.parent_span_id, second.failed) == (first.span_id, True)
    assert (await client.trace(trace_id=f"{7:032x}")).spans == response.spans


async def test_a_gateway_asks_the_others_for_a_trace(stand: Any) -> None:
    address = await stand.gateway()
    other = await stand.client(await stand.gateway())
    async with exporter(address) as export:
        await export.traces(traces(span(7, "Generate", request_id="r")))
    assert [each.name for each in (await other.trace("r")).spans] == ["Generate"]
    with pytest.raises(TraceNotFound, match="kept for 900 s"):
        await other.trace("none")


async def test_a_registry_that_is_ill_hides_no_trace_of_this_gateway() -> None:
    class IllRegistry(InMemoryRegistry):
        async def resolve(self, service: str) -> Any:
            raise OSError("ill")

    recent = RecentTraces(KeepOptions())
    recent.add(traces(span(7, request_id="r")), 0)
    found = Traces(recent, IllRegistry(), open_channel, instance_id="gateway-1")
    assert (await found.find(GetTraceRequest(request_id="r"))).spans
    with pytest.raises(TraceNotFound):
        await found.find(GetTraceRequest(request_id="none"))


async def test_telemetry_takes_no_place_from_requests(stand: Any) -> None:
    address = await stand.gateway(max_concurrent_rpcs=1)
    async with exporter(address) as export:
        await asyncio.gather(*(export.logs(logs("info")) for _ in range(20)))


@asynccontextmanager
async def blackhole() -> AsyncGenerator[str]:
    """A port that takes connections and never answers."""
    server = await asyncio.start_server(lambda _reader, _writer: asyncio.sleep(60), "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def collecting() -> AsyncGenerator[tuple[str, RecordingSink]]:
    received = RecordingSink()
    server = aio.server()
    server.add_generic_rpc_handlers(otlp_handlers(received))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", received
    finally:
        await server.stop(0)


async def test_dead_and_silent_sinks_hold_up_nobody_and_their_losses_show(
    stand: Any, tmp_path: Path
) -> None:
    generation = await stand.generation()
    async with blackhole() as silent, collecting() as (alive, received):
        path = f"{tmp_path}/t.jsonl"
        sinks = (
            SinkSettings(kind="prometheus"),
            SinkSettings(kind="otlp", target="127.0.0.1:1", queue_bytes=100),
            SinkSettings(kind="otlp", target=silent, queue_bytes=100),
            SinkSettings(kind="otlp", target=alive),
            SinkSettings(kind="file", target=path),
        )
        address = await stand.gateway(telemetry_sinks=sinks)
        client = await stand.client(address)
        async with exporter(address) as export:
            for number in range(1, 6):
                await export.traces(traces(span(number, f"span {number}")))
        await client.complete("pocket", prompt="hi")
        assert generation.requests
        url = f"{await http_of(stand)}/metrics"
        await until_scraped(url, "mlxmesh_telemetry_sink_dropped_total")
        async with asyncio.timeout(20):
            while len(received.taken) < 5:
                await asyncio.sleep(0.02)
        status = await client.telemetry_sinks()
    dropped = {sink.name: sink.dropped_items for sink in status}
    assert dropped[f"otlp:{alive}"] == dropped[f"file:{path}"] == 0
    assert dropped["otlp:127.0.0.1:1"] >= 4
    assert dropped[f"otlp:{silent}"] >= 4


async def test_what_is_queued_is_sent_before_a_gateway_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    sink = SinkSettings(kind="file", target=str(path))
    settings = GatewaySettings(telemetry_sinks=(sink,), trace_export_ratio=0, data_dir=tmp_path)
    receiver = open_receiver(settings, "gateway-1")
    async with receiver.running():
        await receiver.fan_out.traces(traces(span(1, "an error", failed=True)))
        await receiver.fan_out.traces(traces(span(2, "all well")))
    assert "an error" in path.read_text()
    assert "all well" not in path.read_text()


async def test_a_sink_whose_files_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    settings = SinkSettings(kind="otlp", target="127.0.0.1:1", headers_file=tmp_path / "none")
    with pytest.raises(IllegalState, match=r"cannot read .*none"):
        CollectorSink(settings)
