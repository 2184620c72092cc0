"""What prefixes on disk give after an engine was killed, through the gateway, on SmolLM2-135M.

Each round has a prefix of its own: cold, warm, and after the restart, each with a new ending.

.venv/bin/python -m tests.bench.bench_prefix_disk [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mlxmesh_client import MeshClient, MeshError
from tests.bench.bench_model import prompts
from tests.bench.bench_prefix import PREFIX_TOKENS, Answer, ask
from tests.bench.results import Findings, Result, Row, median_of, median_ratio, run_alone
from tests.bench.serving import MODEL, Mesh, serving, write_smollm2

_DISK_BYTES = 4 * 2**30
_SETTLED_S = 3.0
# Shared by several requests each, as system prompts are.
_WORKLOAD_PREFIXES = 4
_WORKLOAD_TOKENS = 512
_WORKLOAD_REQUESTS = 16


async def one_each(client: MeshClient, rounds: int, seed: int) -> list[Answer]:
    """A request after the prefix of each round."""
    answers: list[Answer] = []
    for at in range(rounds):
        (prefix,), (tail,) = prompts(1, PREFIX_TOKENS, seed=at), prompts(1, 16, seed=seed + at)
        answers.append(await ask(client, prefix + tail))
    return answers


async def workload(client: MeshClient, seed: int) -> float:
    """The hit rate of requests after shared prefixes."""
    prefixes = prompts(_WORKLOAD_PREFIXES, _WORKLOAD_TOKENS, seed=500)
    tails = prompts(_WORKLOAD_REQUESTS, 32, seed=seed)
    asked = [prefixes[at % len(prefixes)] + tail for at, tail in enumerate(tails)]
    answers = [await ask(client, prompt) for prompt in asked]
    cached = sum(answer.cached_tokens for answer in answers)
    return cached / sum(answer.prompt_tokens for answer in answers)


async def until_written(root: Path) -> int:
    """Waits until nothing more is written; returns the bytes."""
    before, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < _SETTLED_S:
        now = sum(path.stat().st_size for path in root.glob("prefixes/*/*.prefix"))
        if now != before:
            before, since_s = now, time.monotonic()
        await asyncio.sleep(0.2)
    return before


async def restart(client: MeshClient, mesh: Mesh) -> None:
    """Kills the engine and waits for the next one; warms it up with what no round uses."""
    (pid,) = mesh.engines.values()
    os.kill(pid, signal.SIGKILL)
    warm_up = prompts(2, 1100, seed=9000)
    async with asyncio.timeout(120):
        while True:
            with suppress(MeshError):
                for prompt in warm_up:
                    await ask(client, prompt)
                return
            await asyncio.sleep(0.2)


async def measured(mesh: Mesh, root: Path, rounds: int) -> tuple[Row, Row]:
    async with MeshClient(mesh.address) as client:
        await ask(client, prompts(1, 1100, seed=9999)[0])
        cold = await one_each(client, rounds, seed=1000)
        warm = await one_each(client, rounds, seed=2000)
        await workload(client, seed=600)
        warm_rate = await workload(client, seed=700)
        written = await until_written(root)
        await restart(client, mesh)
        after = await one_each(client, rounds, seed=3000)
        after_rate = await workload(client, seed=800)
    return times(cold, warm, after), {
        "hit rate warm": warm_rate,
        "hit rate after": after_rate,
        "ratio": after_rate / warm_rate,
        "MB on disk": written / 1e6,
    }


def times(cold: Sequence[Answer], warm: Sequence[Answer], after: Sequence[Answer]) -> Row:
    return {
        "prefix tokens": PREFIX_TOKENS,
        "cold ttft ms": median_of(cold, ttft_ms),
        "warm ttft ms": median_of(warm, ttft_ms),
        "after restart ttft ms": median_of(after, ttft_ms),
        "cached after restart": statistics.median(each.cached_tokens for each in after),
        "ratio": median_ratio(after, cold, ttft_ms),
    }


def ttft_ms(answer: Answer) -> float:
    return answer.ttft_ms


def measure(rounds: int) -> Findings:
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder:
        model = Path(folder) / MODEL
        write_smollm2(model)
        with serving(model, "--replicas", "1", prefix_disk_bytes=_DISK_BYTES) as mesh:
            ttft, rates = asyncio.run(measured(mesh, mesh.data_dir, rounds))
    return Findings(
        [
            Result(
                "TTFT after a restart over cold, 1,000 tokens",
                float(ttft["ratio"]),
                0.25,
                at_least=False,
            ),
            Result("hit rate after a restart over warm", float(rates["ratio"]), 0.8),
        ],
        {"1,000-token prefixes": [ttft], "requests after shared prefixes": [rates]},
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=5)
