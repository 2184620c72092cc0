"""Tokens per second and time to first token: through the gateway, beside BatchGenerator in process.

    .venv/bin/python -m tests.bench.bench_mesh [--rounds 5] [--json FILE]

One model, one machine, one run; the two sides take turns and the table shows medians and ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from mlxmesh_client import MeshClient
from tests.bench.bench_model import prompts, write_model
from tests.bench.samples import Sample, percentile

PROMPT_TOKENS = 64
NEW_TOKENS = 64
MODEL = "bench"


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

    def measure(self, rows: int, seed: int) -> Sample:
        """Generate for `rows` prompts at once."""
        assert self._process.stdin is not None
        ask = {
            "rows": rows,
            "prompt_tokens": PROMPT_TOKENS,
            "new_tokens": NEW_TOKENS,
            "seed": seed,
        }
        self._process.stdin.write(json.dumps(ask) + "\n")
        self._process.stdin.flush()
        return Sample(**json.loads(self._read()))

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


def start_mesh(data_dir: Path, model: Path) -> str:
    """Start a mesh that serves the model; returns the gateway's address."""
    command = [sys.executable, "-m", "mlxmesh_cli", "up", "--detach", "--json"]
    options = ["--data-dir", str(data_dir), "--grpc-port", "0", "--model", str(model)]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)["address"]


def stop_mesh(data_dir: Path) -> None:
    """Stop it again."""
    subprocess.run(
        [sys.executable, "-m", "mlxmesh_cli", "down", "--data-dir", str(data_dir)],
        capture_output=True,
        check=True,
    )


def summary(rows: int, mesh: list[Sample], reference: list[Sample]) -> dict[str, float]:
    """Medians over the rounds, and ratios of mesh to reference taken round by round."""

    def first_ms(samples: list[Sample], share: float) -> float:
        return 1000 * statistics.median(percentile(sample.ttft_s, share) for sample in samples)

    pairs = zip(mesh, reference, strict=True)
    return {
        "streams": rows,
        "in_process_tokens_per_second": statistics.median(s.tokens_per_second for s in reference),
        "mesh_tokens_per_second": statistics.median(s.tokens_per_second for s in mesh),
        "ratio": statistics.median(m.tokens_per_second / r.tokens_per_second for m, r in pairs),
        "in_process_ttft_p50_ms": first_ms(reference, 0.5),
        "in_process_ttft_p99_ms": first_ms(reference, 0.99),
        "mesh_ttft_p50_ms": first_ms(mesh, 0.5),
        "mesh_ttft_p99_ms": first_ms(mesh, 0.99),
    }


async def run(rounds: int, streams: list[int]) -> list[dict[str, float]]:
    """All measurements, the two sides by turns."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as directory:
        model, data_dir = Path(directory) / MODEL, Path(directory) / "data"
        write_model(model)
        reference = InProcess(model)
        address = start_mesh(data_dir, model)
        mesh_samples: dict[int, list[Sample]] = {n: [] for n in streams}
        reference_samples: dict[int, list[Sample]] = {n: [] for n in streams}
        try:
            async with MeshClient(address) as client:
                await measure_mesh(client, max(streams), seed=0)
                reference.measure(max(streams), seed=0)
                for seed in track(range(1, rounds + 1), "measuring", console=Console(stderr=True)):
                    for n in streams:
                        mesh_samples[n].append(await measure_mesh(client, n, seed))
                        reference_samples[n].append(reference.measure(n, seed))
        finally:
            stop_mesh(data_dir)
            reference.close()
        return [summary(n, mesh_samples[n], reference_samples[n]) for n in streams]


def print_table(rows: list[dict[str, float]]) -> None:
    """The table for people."""
    table = Table(*(name.replace("_", " ") for name in rows[0]), box=None)
    for row in rows:
        table.add_row(
            *(f"{value:,.2f}" if value < 10 else f"{value:,.0f}" for value in row.values())
        )
    console = Console()
    console.print(f"{platform.platform()}, {platform.processor() or platform.machine()}")
    console.print(table)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    rows = asyncio.run(run(args.rounds, args.streams))
    print_table(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
