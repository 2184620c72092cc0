"""The OpenAI edge beside gRPC: streams, and chats of one token, by turns on one mesh.

    .venv/bin/python -m tests.bench.bench_http [--rounds 5] [--streams 1 32 256]

Both clients do as little as they can. The engine is simulated and fast, so that the gateway's part
is large; CPU times are read by process and hold on a busy machine as well.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.rpc.channels import open_channel
from tests.bench.http_load import HttpLoad
from tests.bench.load import Load, Run, cost_row
from tests.bench.results import Findings, Result, Row, median_ratio, run_alone
from tests.bench.samples import percentile
from tests.bench.serving import MODEL, Mesh, bench_model, simulated

STREAMS = (1, 32, 256)
NEW_TOKENS = 300
CALLS = 300
GRPC, HTTP = "gRPC", "OpenAI"
TEXT = "Say one word."
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"

Runs = dict[int, tuple[list[Run], list[Run]]]
"""Of gRPC and of HTTP, by the number of streams."""


async def streams_by_turns(on: Mesh, rounds: int, streams: list[int]) -> Runs:
    """Each round has both sides one after the other."""
    found: Runs = {count: ([], []) for count in streams}
    async with Load(on.address, on.pids) as grpc, HttpLoad(on.http, on.pids) as http:
        await grpc.run(8, new_tokens=50)
        await http.run(8, new_tokens=50)
        for _ in range(rounds):
            for count, (by_grpc, by_http) in found.items():
                by_grpc.append(await grpc.run(count, new_tokens=NEW_TOKENS))
                by_http.append(await http.run(count, new_tokens=NEW_TOKENS))
    return found


async def unary_by_turns(on: Mesh) -> tuple[list[float], list[float]]:
    """Seconds of chats of one token over gRPC and over HTTP."""
    chat = pb.ChatInput(messages=[pb.ChatMessage(role=pb.ROLE_USER, content=TEXT)])
    request = pb.CompleteRequest(
        generation=pb.GenerateRequest(model=MODEL, chat=chat, max_tokens=1)
    )
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": TEXT}],
        "max_tokens": 1,
        "temperature": 0,
    }
    channel = open_channel(on.address)
    stub = GenerationServiceStub(channel)
    by_grpc: list[float] = []
    by_http: list[float] = []
    async with HttpLoad(on.http, on.pids) as http:
        for _ in range(CALLS):
            started_s = time.perf_counter()
            await stub.Complete(request)
            by_grpc.append(time.perf_counter() - started_s)
            by_http.append(await http.unary_s(body))
    await channel.close()
    return by_grpc, by_http


def measure(rounds: int, streams: list[int]) -> Findings:
    with bench_model() as model:
        (model / "chat_template.jinja").write_text(TEMPLATE)
        with simulated(model, "--http-port", "0", simulated_step_ms=1) as on:
            runs = asyncio.run(streams_by_turns(on, rounds, streams))
            by_grpc, by_http = asyncio.run(unary_by_turns(on))
    rows = [
        cost_row({"streams": count, "protocol": name}, side)
        for count, both in runs.items()
        for name, side in zip((GRPC, HTTP), both, strict=True)
    ]
    unary = [_latency_row(name, side) for name, side in ((GRPC, by_grpc), (HTTP, by_http))]
    return Findings(
        [*_verdicts(runs), _unary_verdict(by_grpc, by_http)],
        {"OpenAI streaming beside gRPC": rows, "a chat of one token": unary},
    )


def _verdicts(runs: Runs) -> list[Result]:
    results: list[Result] = []
    for count, (by_grpc, by_http) in runs.items():
        ratio = median_ratio(by_http, by_grpc, lambda run: run.tokens_per_second)
        name = f"tokens/s of OpenAI streaming over gRPC, {count} streams"
        results.append(Result(name, ratio, 0.9))
        cut = sum(one.tokens != NEW_TOKENS for run in by_http for one in run.outcomes)
        name = f"OpenAI streams that failed, {count} at a time"
        results.append(Result(name, cut, 0, "streams", at_least=False))
    return results


def _unary_verdict(by_grpc: list[float], by_http: list[float]) -> Result:
    added_ms = 1e3 * (statistics.median(by_http) - statistics.median(by_grpc))
    name = "added p50 of a chat of one token"
    return Result(name, added_ms, 2.0, "ms", at_least=False)


def _latency_row(protocol: str, seconds: list[float]) -> Row:
    at = {f"p{p} ms": 1e3 * percentile(sorted(seconds), p / 100) for p in (25, 50, 90, 99)}
    return {"protocol": protocol, **at}


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=5, streams=STREAMS)
