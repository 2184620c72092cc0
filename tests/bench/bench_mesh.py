"""Tokens per second and time to first token: through the gateway, beside BatchGenerator in process.

    .venv/bin/python -m tests.bench.bench_mesh [--rounds 5] [--json FILE]

One model, one machine, one run; the two sides take turns and the table shows medians and ratios.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from mlxmesh_client import MeshClient
from tests.bench.bench_model import prompts
from tests.bench.results import Findings, Result, Row, median_of, median_ratio, run_alone
from tests.bench.samples import Sample, percentile
from tests.bench.serving import MODEL, bench_model, serving

PROMPT_TOKENS = 64
NEW_TOKENS = 64
TITLE = "through the gateway, beside MLX in process"
WANTED = {1: 0.97, 8: 0.95, 32: 0.95}


class InProcess:
    """The reference, in a process of its own that stays up between measurements."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.in_process", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def measure(self, rows: int, seed: int, *, new_tokens: int = NEW_TOKENS) -> Sample:
        """Generate for `rows` prompts at once."""
        assert self._process.stdin is not None
        ask = {
            "rows": rows,
            "prompt_tokens": PROMPT_TOKENS,
            "new_tokens": new_tokens,
            "seed": seed,
        }
        self._process.stdin.write(json.dumps(ask) + "\n")
        self._process.stdin.flush()
        return Sample(**json.loads(self._read()))

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=10)

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


async def measure_mesh(client: MeshClient, rows: int, seed: int) -> Sample:
    """The same load through the gateway, every stream its own call."""
    start = time.perf_counter()

    async def stream(ids: list[int]) -> tuple[int, float]:
        tokens, first = 0, 0.0
        async for event in client.generate(
            MODEL, token_ids=ids, max_tokens=NEW_TOKENS, ignore_eos=True
        ):
            if event.token_ids and not tokens:
                first = time.perf_counter() - start
            tokens += len(event.token_ids)
        return tokens, first

    work = prompts(rows, PROMPT_TOKENS, seed=seed)
    results = await asyncio.gather(*(stream(ids) for ids in work))
    seconds = time.perf_counter() - start
    total = sum(tokens for tokens, _ in results)
    assert total == rows * NEW_TOKENS, "a stream came up short"
    return Sample(total / seconds, sorted(first for _, first in results))


def row(streams: int, mesh: list[Sample], reference: list[Sample]) -> Row:
    """Medians over the rounds, and the ratio of mesh to reference taken round by round."""

    def ttft_ms(samples: list[Sample], share: float) -> float:
        return 1000 * median_of(samples, lambda sample: percentile(sample.ttft_s, share))

    return {
        "streams": streams,
        "in process tokens/s": median_of(reference, lambda sample: sample.tokens_per_second),
        "mesh tokens/s": median_of(mesh, lambda sample: sample.tokens_per_second),
        "ratio": median_ratio(mesh, reference, lambda sample: sample.tokens_per_second),
        "in process ttft p50 ms": ttft_ms(reference, 0.5),
        "in process ttft p99 ms": ttft_ms(reference, 0.99),
        "mesh ttft p50 ms": ttft_ms(mesh, 0.5),
        "mesh ttft p99 ms": ttft_ms(mesh, 0.99),
    }


async def by_turns(
    address: str, reference: InProcess, rounds: int, streams: list[int]
) -> dict[int, list[tuple[Sample, Sample]]]:
    """Samples of mesh and reference by number of streams; another goes first in each round.

    Each load has prompts of its own: the mesh remembers what it has read.
    """
    found: dict[int, list[tuple[Sample, Sample]]] = {count: [] for count in streams}
    async with MeshClient(address) as client:
        await measure_mesh(client, max(streams), seed=0)
        reference.measure(max(streams), seed=0)
        for number in range(1, rounds + 1):
            for count in streams:
                seed = 1000 * number + count
                if number % 2:
                    mesh = await measure_mesh(client, count, seed)
                    beside = reference.measure(count, seed)
                else:
                    beside = reference.measure(count, seed)
                    mesh = await measure_mesh(client, count, seed)
                found[count].append((mesh, beside))
    return found


def measure(rounds: int, streams: list[int]) -> Findings:
    """All rounds."""
    with bench_model() as model:
        reference = InProcess(model)
        try:
            with serving(model) as mesh:
                found = asyncio.run(by_turns(mesh.address, reference, rounds, streams))
        finally:
            reference.close()
    rows = [
        row(count, [mesh for mesh, _ in pairs], [beside for _, beside in pairs])
        for count, pairs in found.items()
    ]
    results = [
        Result(f"tokens/s of the mesh over in process, {n} streams", float(row["ratio"]), WANTED[n])
        for n, row in zip(streams, rows, strict=True)
        if n in WANTED
    ]
    return Findings(results, {TITLE: rows})


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=5, streams=(1, 8, 32))
