"""Decoding quantized weights on the CPU: as shipped in process, and expanded as an engine does.

    .venv/bin/python -m tests.bench.bench_quantized [--rounds 3] [--json FILE]

A 4 M-parameter Llama in 4 and in 8 bits, 8 rows of 64 prompt and 64 new tokens: mlx-lm's
BatchGenerator on the packed weights, beside the engine's step loop, which expands them to float32
where memory allows. Both have the same BLAS; tokens/s, medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.bench_engine import greedy, own, rates, upstream
from tests.fakes.engine_rig import load_model
from tests.fakes.tiny_model import mx, write_model

ROWS = 8
BITS = (4, 8)


@dataclass(frozen=True)
class Result:
    """One width's figures, in tokens/s."""

    bits: int
    as_shipped: float
    expanded: float
    ratio: float
    note: str


def measure(directory: Path, bits: int, rounds: int) -> Result:
    """One width; the note is what the engine says of its choice."""
    path = write_model(
        directory,
        dtype=mx.bfloat16,
        bits=bits,
        hidden=256,
        layers=4,
        vocab_size=4096,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=704,
        eos_token_id=None,
    )
    shipped, expanded = load_model(path, dtype="as_shipped"), load_model(path)
    found = rates(
        {"as shipped": upstream(shipped, ROWS), "expanded": own(expanded, ROWS, greedy)}, rounds
    )
    ratio = found["expanded"] / found["as shipped"]
    return Result(bits, found["as shipped"], found["expanded"], ratio, expanded.dtype_note)


def run(rounds: int) -> list[Result]:
    """Every width in turn."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as directory:
        return [measure(Path(directory) / str(bits), bits, rounds) for bits in BITS]


def print_table(results: Sequence[Result]) -> None:
    """One row a width."""
    table = Table("bits", "as shipped", "engine", "ratio", "the engine says", box=None)
    for each in results:
        figures = (f"{each.as_shipped:,.0f}", f"{each.expanded:,.0f}", f"{each.ratio:.1f}")
        table.add_row(str(each.bits), *figures, each.note)
    console = Console()
    console.print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {ROWS} rows")
    console.print(table)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    results = run(args.rounds)
    print_table(results)
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=2))


if __name__ == "__main__":
    main()
