"""Memory of engines over many requests with all features, and what unloading a model returns.

    .venv/bin/python -m tests.bench.bench_leaks [--requests 10000] [--rounds 3] [--json FILE]

An engine process gets so many requests: more adapters than slots, constraints, seeded sampling,
speculation, cancellations, and prefixes in memory and on disk, each within a small limit. Another
one encodes as many texts. After a fifth of the requests, a line through the RSS by least squares
gives the growth. Then a mesh loads and unloads a model `rounds` times.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from mlxmesh.engine.v1 import engine_pb2 as pb
from mlxmesh.engine.v1 import engine_pb2_grpc
from mlxmesh_client import MeshClient
from mlxmesh_shared.rpc.channels import open_channel
from tests.bench.bench_model import prompts
from tests.bench.results import Findings, Result, Row, run_alone
from tests.bench.serving import MODEL, Mesh, bench_model, serving
from tests.fakes.encoder_models import CONTEXT, VOCAB, write_encoder
from tests.fakes.engine_child import POCKET_MINI, engine_child
from tests.fakes.mixed_requests import MixedRequests

IN_FLIGHT = 16
STREAM_REQUESTS = 200
"""Of one stream; then another one begins."""
CANCELLED = 13
"""One of so many is cancelled at its first output."""
ADAPTERS, SLOTS = 7, 4
WARM_UP = 0.2
SAMPLES = 200
FLAGS = {
    "max-adapters": SLOTS,
    "prefix-cache-bytes": 8 * 2**20,
    "prefix-disk-bytes": 64 * 2**20,
    "constraint-cache-bytes": 2**22,
    "speculative": "ngram",
}
WANTED_MB = 5.0
WANTED_RETURNED = 0.95
_SETTLED_S, _SETTLED = 3.0, 0.005
_MB = 1e6


@dataclass
class Memory:
    """The RSS of a process, by time and by requests that have ended."""

    process: psutil.Process
    samples: list[tuple[float, int, float]] = field(default_factory=list[tuple[float, int, float]])
    """Seconds, requests, MB."""

    def sample(self, requests: int) -> None:
        megabytes = self.process.memory_info().rss / _MB
        self.samples.append((time.monotonic(), requests, megabytes))

    def row(self, name: str) -> Row:
        seconds, requests, megabytes = np.array(self.samples[int(WARM_UP * len(self.samples)) :]).T
        by_time, by_requests = (
            float(np.polyfit(along - along[0], megabytes, 1)[0]) for along in (seconds, requests)
        )
        return {
            "engine": name,
            "requests": self.samples[-1][1],
            "seconds": self.samples[-1][0] - self.samples[0][0],
            "first MB": self.samples[0][2],
            "warm MB": float(megabytes[0]),
            "last MB": float(megabytes[-1]),
            "MB per hour": by_time * 3600,
            "MB per 10,000": by_requests * 10_000,
        }


@contextlib.asynccontextmanager
async def engine(
    folder: Path, model_dir: Path, *flags: str
) -> AsyncIterator[tuple[engine_pb2_grpc.EngineServiceStub, Memory]]:
    """An engine process."""
    with engine_child(folder, "--no-telemetry", *flags, model_dir=model_dir) as address:
        (process,) = (
            child for child in psutil.Process().children() if str(model_dir) in child.cmdline()
        )
        channel = open_channel(address, role="engine")
        try:
            yield engine_pb2_grpc.EngineServiceStub(channel), Memory(process)
        finally:
            await channel.close()


async def generate(folder: Path, count: int) -> Row:
    """All features of generation."""
    flags = [f"--{name}={value}" for name, value in FLAGS.items()]
    async with engine(folder, POCKET_MINI, *flags) as (stub, memory):
        info = await stub.GetEngineInfo(pb.GetEngineInfoRequest())
        requests = MixedRequests(
            folder / "adapters", POCKET_MINI, vocab_size=info.vocab_size, adapters=ADAPTERS
        )

        async def run(first: int, last: int) -> None:
            await run_stream(stub.Execute(), requests, range(first, last))

        return await sampled(memory, "generation", count, STREAM_REQUESTS, run)


async def run_stream(call: Any, requests: MixedRequests, numbers: range) -> None:
    """So many requests in one stream, some at once. Raises: RuntimeError if one fails."""
    waiting = list(reversed(numbers))
    running: set[int] = set()

    async def fill() -> None:
        while waiting and len(running) < IN_FLIGHT:
            running.add(waiting[-1])
            await call.write(pb.ExecuteRequest(submit=requests.submit(waiting.pop())))

    await fill()
    while running:
        response = await call.read()
        for output in response.outputs:
            number = output.sequence_id
            if output.HasField("failure"):
                raise RuntimeError(f"request {number}: {output.failure}")
            if output.finish_reason:
                running.discard(number)
            elif number % CANCELLED == 0 and output.HasField("accepted"):
                cancel = pb.Cancel(sequence_ids=[number])
                await call.write(pb.ExecuteRequest(cancel=cancel))
        await fill()
    await call.done_writing()
    while await call.read():
        pass


async def encode(folder: Path, count: int) -> Row:
    """Texts of all lengths."""
    path = write_encoder(folder / "encoder", "bert")
    rng = random.Random(1)
    async with engine(folder, path, "--kind", "embedding") as (stub, memory):

        async def run(first: int, last: int) -> None:
            await asyncio.gather(*(ask() for _ in range(first, last)))

        async def ask() -> None:
            length = rng.randint(1, CONTEXT)
            text = pb.EncodeInput(token_ids=[rng.randrange(5, VOCAB) for _ in range(length)])
            await stub.Encode(pb.EncodeRequest(inputs=[text], encoding=pb.ENCODING_VECTOR))

        return await sampled(memory, "embedding", count, IN_FLIGHT, run)


async def sampled(
    memory: Memory,
    name: str,
    count: int,
    together: int,
    run: Callable[[int, int], Awaitable[None]],
) -> Row:
    """Runs `count` requests, so many at a time, and samples the memory in between."""
    together = max(1, min(together, count // 20))
    memory.sample(0)
    for first in range(1, count + 1, together):
        last = min(first + together, count + 1)
        await run(first, last)
        if first * SAMPLES // count != last * SAMPLES // count:
            memory.sample(last - 1)
    return memory.row(name)


def processes_of(mesh: Mesh) -> list[psutil.Process]:
    """Every process of the mesh, engines and spare ones as well."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if str(mesh.data_dir) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def settled_mb(mesh: Mesh) -> float:
    """The memory that only the mesh has, once it is steady."""
    before, since_s = 0.0, time.monotonic()
    while time.monotonic() - since_s < _SETTLED_S:
        now = 0.0
        for process in processes_of(mesh):
            with contextlib.suppress(psutil.NoSuchProcess):
                now += process.memory_full_info().uss / _MB
        if abs(now - before) > _SETTLED * before:
            before, since_s = now, time.monotonic()
        time.sleep(0.2)
    return before


async def use(mesh: Mesh) -> None:
    """Some requests at once, as a model that is loaded gets them."""
    asked = prompts(IN_FLIGHT, 200, seed=1)
    async with MeshClient(mesh.address) as client:
        await asyncio.gather(
            *(client.complete(MODEL, token_ids=each, max_tokens=20) for each in asked)
        )


def load_and_unload(rounds: int) -> list[Row]:
    """What the model takes, and what is returned, by round."""
    rows: list[Row] = []
    with bench_model() as model, serving(model) as mesh:

        def command(*words: str) -> None:
            line = [sys.executable, "-m", "mlxmesh_cli", *words, "--data-dir", str(mesh.data_dir)]
            subprocess.run(line, stdout=subprocess.DEVNULL, check=True)

        # The first load leaves behind what the services learn of a model only once.
        asyncio.run(use(mesh))
        command("unload", MODEL)
        for number in range(1, rounds + 1):
            before = settled_mb(mesh)
            command("load", MODEL)
            asyncio.run(use(mesh))
            loaded = settled_mb(mesh)
            command("unload", MODEL)
            after = settled_mb(mesh)
            rows.append(
                {
                    "round": number,
                    "before MB": before,
                    "loaded MB": loaded,
                    "after MB": after,
                    "returned": (loaded - after) / (loaded - before),
                }
            )
    return rows


def measure(rounds: int, requests: Sequence[int]) -> Findings:
    """One engine after another, then the mesh."""
    (count,) = requests
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder:
        grown = [asyncio.run(work(Path(folder), count)) for work in (generate, encode)]
    loads = load_and_unload(rounds)
    results = [
        Result(f"RSS of {row['engine']}, {unit}", float(row[unit]), WANTED_MB, "MB", at_least=False)
        for row in grown
        for unit in ("MB per hour", "MB per 10,000")
    ]
    returned = float(np.median([float(row["returned"]) for row in loads]))
    results.append(Result("memory that unloading returns", returned, WANTED_RETURNED))
    return Findings(results, {"RSS over requests": grown, "load and unload": loads})


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=3, requests=[10_000])
