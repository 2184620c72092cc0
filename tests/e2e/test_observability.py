"""A mesh watched by what people watch with: a collector, Prometheus, and `mlxmesh trace`."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlxmesh_client import MeshClient
from mlxmesh_gateway.otlp.sinks.collector import CollectorSink
from mlxmesh_shared.settings.sinks import SinkSettings
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh
from tests.fakes.ports import free_port
from tests.fakes.telemetry import counter, logs, metrics, span, traces
from tests.fakes.tools import running_tool, tool

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "observability"
PATIENCE_S = 60


def http_of(mesh: RunningMesh) -> str:
    (gateway,) = [row for row in mesh.status()["instances"] if row["service"] == "gateway"]
    return gateway["http"]


def checked(*command: str) -> None:
    result = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


async def test_the_trace_of_a_request_is_told(mesh: RunningMesh) -> None:
    generated = mesh.command("generate", "Hi", "--request-id", "to-trace", "--max-tokens", "8")
    assert generated.returncode == 0, generated.stderr
    spans: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_S):
        while {each["service"] for each in spans} != {"gateway", "generation", "engine"}:
            told = await asyncio.to_thread(mesh.command, "trace", "to-trace", "--json")
            assert told.returncode == 0, told.stderr
            spans = json.loads(told.stdout)["spans"]
    assert {"queue", "prefill", "decode"} <= {each["name"] for each in spans}
    assert len({each["trace_id"] for each in spans}) == 1
    known = {each["span_id"] for each in spans}
    assert len([each for each in spans if each["parent_span_id"] not in known]) == 1
    shown = mesh.command("trace", spans[0]["trace_id"])
    assert shown.returncode == 0, shown.stderr
    assert "decode" in shown.stdout


def test_an_unknown_request_has_no_trace(mesh: RunningMesh) -> None:
    told = mesh.command("trace", "nobody-asked-this")
    assert told.returncode == 1
    assert "kept for 900 s" in told.stderr


async def test_every_process_tells_its_metrics(mesh: RunningMesh) -> None:
    wanted = {
        f'service="{each}"' for each in ("gateway", "generation", "model", "runtime", "engine")
    }
    async with asyncio.timeout(PATIENCE_S), httpx2.AsyncClient() as client:
        while True:
            page = (await client.get(f"http://{http_of(mesh)}/metrics")).text
            if all(each in page for each in wanted):
                return
            await asyncio.sleep(0.5)


@asynccontextmanager
async def collector(folder: Path) -> AsyncGenerator[tuple[str, Path]]:
    """A real collector that writes all that it gets into a log."""
    port = free_port()
    config = folder / "collector.yaml"
    config.write_text(
        f"receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:{port}'}}}}}}}}\n"
        "exporters: {debug: {verbosity: detailed}}\n"
        "service:\n"
        "  telemetry: {metrics: {level: none}}\n"
        "  pipelines:\n"
        "    traces: {receivers: [otlp], exporters: [debug]}\n"
        "    metrics: {receivers: [otlp], exporters: [debug]}\n"
        "    logs: {receivers: [otlp], exporters: [debug]}\n"
    )
    log = folder / "collector.log"
    async with running_tool([tool("otelcol"), "--config", str(config)], port, log):
        yield f"127.0.0.1:{port}", log


async def until_logged(log: Path, *words: str) -> str:
    async with asyncio.timeout(PATIENCE_S):
        while not all(word in log.read_text() for word in words):
            await asyncio.sleep(0.1)
    return log.read_text()


@pytest.mark.tools
async def test_a_real_collector_takes_every_signal(tmp_path: Path) -> None:
    async with collector(tmp_path) as (address, log):
        sink = CollectorSink(SinkSettings(kind="otlp", target=address))
        await sink.traces(traces(span(5, "a span", request_id="r", failed=True)))
        await sink.metrics(metrics(counter("a.metric", 3, "By", model="pocket")))
        await sink.logs(logs("warn"))
        told = await until_logged(log, "a span", "a.metric", "a record of warn")
        await sink.close()
    assert f"{5:032x}" in told
    assert "mlxmesh.request_id: Str(r)" in told


@pytest.mark.tools
async def test_a_real_collector_gets_what_a_mesh_tells(tmp_path: Path) -> None:
    async with collector(tmp_path) as (address, log):
        sinks = {"MLXMESH_GATEWAY_TELEMETRY_SINKS": f"prometheus; otlp:{address}"}
        mesh = start_mesh(tmp_path / "mesh", env=sinks)
        try:
            mesh.command("generate", "Hi", "--request-id", "collected", "--max-tokens", "4")
            told = await until_logged(log, "Str(collected)", "decode", "mlxmesh.engine.running")
            assert "Str(engine)" in told
            async with MeshClient(mesh.address) as client:
                (sink,) = [
                    one for one in await client.telemetry_sinks() if one.name != "prometheus"
                ]
            assert (sink.dropped_items, sink.failure_reason) == (0, "")
        finally:
            stop_mesh(mesh)


@pytest.mark.tools
async def test_a_real_prometheus_scrapes_a_mesh(mesh: RunningMesh, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "prometheus.yml"
    shipped = (FOLDER / "prometheus.yml").read_text()
    config.write_text(
        shipped.replace("127.0.0.1:8051", http_of(mesh))
        .replace("15s", "1s")
        .replace("alerts.yml", str(FOLDER / "alerts.yml"))
    )
    command = [
        tool("prometheus"), "--config.file", str(config),
        "--storage.tsdb.path", str(tmp_path / "data"),
        "--web.listen-address", f"127.0.0.1:{port}",
    ]  # fmt: skip
    assert mesh.command("generate", "Hi", "--max-tokens", "8").returncode == 0
    url = f"http://127.0.0.1:{port}/api/v1"
    async with running_tool(command, port, tmp_path / "log"), httpx2.AsyncClient() as client:

        async def asked(query: str) -> list[dict[str, Any]]:
            answer = await client.get(f"{url}/query", params={"query": query})
            return answer.json()["data"]["result"]

        async with asyncio.timeout(PATIENCE_S):
            while not await asked("mlxmesh_engine_output_tokens_total > 0"):
                await asyncio.sleep(0.5)
        (engine,) = await asked("mlxmesh_engine_running_limit")
        assert engine["metric"]["service"] == "engine"
        assert engine["metric"]["instance"].startswith("pocket-v1-")
        (up,) = await asked("up")
        assert up["value"][1] == "1"
        rules = (await client.get(f"{url}/rules")).json()["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}


@pytest.mark.tools
def test_the_shipped_configuration_is_valid() -> None:
    checked(tool("promtool"), "check", "config", "prometheus.yml")
    checked(tool("promtool"), "test", "rules", "alerts_test.yml")
    checked(tool("otelcol"), "validate", "--config", "collector.yaml")


@pytest.mark.tools
def test_promtool_finds_the_page_of_metrics_well_formed(mesh: RunningMesh) -> None:
    page = httpx2.get(f"http://{http_of(mesh)}/metrics").text
    command = [tool("promtool"), "check", "metrics"]
    result = subprocess.run(command, input=page, capture_output=True, text=True, timeout=60)
    # 3 is for advice about names, which are OpenTelemetry's.
    assert result.returncode in (0, 3), result.stderr
    assert "error" not in result.stderr
