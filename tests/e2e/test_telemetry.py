"""A whole mesh tells a collector what it does: traces from client to engine, metrics, logs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import STDIO_TOOLS, RunningMesh, start_mesh, stop_mesh
from tests.fakes.mcp.commands import stdio_server
from tests.fakes.otlp_collector import Received, ReceivedSpan, collector_beside
from tests.instruments import ALL

GENERATE = "mlxmesh.generation.v1.GenerationService/Generate"
SIMULATED = {"MLXMESH_ENGINE_BACKEND": "simulated", "MLXMESH_ENGINE_SIMULATED_STEP_MS": "10"}
TOKENS = 30
WHOLE = [
    ("gateway", GENERATE),
    ("generation", GENERATE),
    ("generation", "text_completion pocket"),
    ("generation", "execute"),
]
PHASES = [("engine", "queue"), ("engine", "prefill"), ("engine", "decode")]


@dataclass
class Observed:
    """A mesh, and what it told."""

    mesh: RunningMesh
    received: Received

    async def generate(
        self,
        number: int,
        trace_id: int,
        on_first_token: Callable[[str], None] = lambda _: None,
        **options: Any,
    ) -> int:
        """One stream within a trace of the caller's own; returns its prompt's tokens.

        `on_first_token` is told the engine.
        """
        engine_id, tokens = "", 0
        prompt_tokens = 0
        parent = SpanContext(trace_id, number, is_remote=False, trace_flags=TraceFlags(1))
        token = attach(trace.set_span_in_context(NonRecordingSpan(parent)))
        try:
            async with MeshClient(self.mesh.address) as client:
                options = {
                    "prompt": "x" * number,
                    "max_tokens": TOKENS,
                    "ignore_eos": True,
                } | options
                async for event in client.generate("pocket", **options):
                    if event.started is not None:
                        engine_id = event.started.engine_id
                    if event.token_ids and not tokens:
                        on_first_token(engine_id)
                    tokens += len(event.token_ids)
                    if event.finished is not None:
                        prompt_tokens = event.finished.usage.prompt_tokens
        finally:
            detach(token)
        return prompt_tokens

    async def spans_of(self, trace_id: int, count: int) -> list[ReceivedSpan]:
        """The spans of a trace, once there are so many."""
        name = f"{trace_id:032x}"

        def found() -> list[ReceivedSpan]:
            return [span for span in self.received.spans if span.trace_id == name]

        await self.received.wait_for(lambda _: len(found()) >= count)
        return found()


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    received = Received()
    with collector_beside(received) as endpoint:
        mesh = start_mesh(
            tmp_path_factory.mktemp("mesh"),
            *("--replicas", "2"),
            env={"MLXMESH_OTLP_ENDPOINT": endpoint, **SIMULATED, **STDIO_TOOLS},
        )
        yield Observed(mesh, received)
        stop_mesh(mesh)


def chain(received: Received, span: ReceivedSpan) -> list[tuple[str, str]]:
    """From a span down, as long as there is one below."""
    below = received.children(span)
    mine = [(span.service, span.name)]
    return mine + (chain(received, below[0]) if len(below) == 1 else names(below))


def names(spans: list[ReceivedSpan]) -> list[tuple[str, str]]:
    return [(span.service, span.name) for span in spans]


async def test_one_request_is_one_trace_from_the_client_to_the_engine(observed: Observed) -> None:
    prompt_tokens = await observed.generate(7, 0xA1)
    spans = await observed.spans_of(0xA1, 7)
    (root,) = [span for span in spans if span.service == "gateway"]
    assert root.parent_id == f"{7:016x}"
    assert chain(observed.received, root) == WHOLE + PHASES
    assert len(spans) == len(WHOLE + PHASES)
    by_name = {span.name: span.attributes for span in spans}
    for name in (GENERATE, "text_completion pocket"):
        assert by_name[name]["mlxmesh.request_id"].startswith("gen-")
        assert by_name[name]["gen_ai.request.model"] == "pocket"
        assert by_name[name]["gen_ai.operation.name"] == "text_completion"
    assert by_name["text_completion pocket"]["gen_ai.usage.output_tokens"] == TOKENS
    assert by_name["prefill"]["gen_ai.usage.input_tokens"] == prompt_tokens
    assert by_name["decode"]["gen_ai.usage.output_tokens"] == TOKENS


async def test_each_of_many_sequences_keeps_its_own_parent(observed: Observed) -> None:
    numbers = range(1, 9)
    prompts = await asyncio.gather(
        *(observed.generate(each, 0xB0 + each, max_tokens=10 * each) for each in numbers)
    )
    for number, prompt_tokens in zip(numbers, prompts, strict=True):
        spans = await observed.spans_of(0xB0 + number, 7)
        (root,) = [span for span in spans if span.service == "gateway"]
        assert root.parent_id == f"{number:016x}"
        assert chain(observed.received, root) == WHOLE + PHASES
        assert len(spans) == len(WHOLE + PHASES)
        by_name = {span.name: span.attributes for span in spans}
        assert by_name["prefill"]["gen_ai.usage.input_tokens"] == prompt_tokens
        assert by_name["decode"]["gen_ai.usage.output_tokens"] == 10 * number


async def test_a_stream_that_goes_on_at_another_engine_stays_in_its_trace(
    observed: Observed,
) -> None:
    rows = await asyncio.to_thread(lambda: observed.mesh.status()["instances"])
    pids = {row["instance_id"]: row["pid"] for row in rows if row["service"] == "engine"}
    await observed.generate(
        1, 0xC1, lambda engine_id: os.kill(pids[engine_id], signal.SIGKILL), max_tokens=300
    )
    spans = await observed.spans_of(0xC1, 8)
    (generation,) = [span for span in spans if span.name == "text_completion pocket"]
    lost, second = observed.received.children(generation)
    assert (lost.name, lost.failed, second.name, second.failed) == (
        "execute",
        True,
        "execute",
        False,
    )
    assert lost.attributes["error.type"] == "ENGINE_LOST"
    assert lost.attributes["mlxmesh.engine.id"] != second.attributes["mlxmesh.engine.id"]
    # The first engine took what it knew with it.
    assert names(observed.received.children(second)) == PHASES
    assert generation.attributes["mlxmesh.resumptions"] == 1
    assert generation.attributes["gen_ai.usage.output_tokens"] == 300
    decode = observed.received.children(second)[-1]
    assert 0 < decode.attributes["gen_ai.usage.output_tokens"] < 300


async def test_every_process_tells_its_metrics(observed: Observed) -> None:
    await observed.generate(1, 0xD1)
    async with httpx2.AsyncClient() as client:  # HTTP's own metrics begin with its first request
        await client.get(f"http://{observed.mesh.http}/v1/models")
    # Those of jobs, with a job that has ended and one that waits.
    for options in (("--wait", "--max-tokens", "3"), ("--not-before", "1h")):
        submitted = observed.mesh.command("jobs", "submit", "Hi", *options)
        assert submitted.returncode == 0, submitted.stderr
    # Those of tools, with a call.
    data_dir = ("--data-dir", str(observed.mesh.data_dir))
    added = observed.mesh.command("mcp", "add", "fake", *data_dir, "--", *stdio_server())
    assert added.returncode == 0, added.stderr
    called = observed.mesh.command("mcp", "call", "fake__echo", '{"text": "Hi"}', "--yes")
    assert called.returncode == 0, called.stderr
    told = observed.received.metrics_by_service
    wanted = {each.name for each in ALL}

    def all_there(_: Received) -> bool:
        return wanted == {name for of_one in list(told.values()) for name in list(of_one)}

    await observed.received.wait_for(all_there)
    services = {"gateway", "generation", "model", "runtime", "engine", "jobs", "worker", "tools"}
    assert set(told) == services


async def test_logs_name_the_trace_that_they_are_part_of(observed: Observed) -> None:
    await observed.generate(1, 0xE1)

    def logged(received: Received) -> bool:
        return any(int(record.trace_id.hex() or "0", 16) == 0xE1 for record in received.log_records)

    await observed.received.wait_for(logged)
    assert (
        f'"trace_id": "{0xE1:032x}"'
        in (observed.mesh.data_dir / "logs" / "gateway.log").read_text()
    )
