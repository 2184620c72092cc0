"""Decoding quantized weights on the CPU: as shipped in process, and expanded as an engine does.

    .venv/bin/python -m tests.bench.bench_quantized [--rounds 1] [--json FILE]

A 4 M-parameter Llama in 4 and in 8 bits, 8 rows of 64 prompt and 64 new tokens: mlx-lm's
BatchGenerator on the packed weights, beside the engine's step loop, which expands them to float32
where memory allows. Both have the same BLAS; tokens/s, medians of interleaved rounds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bench.bench_engine import SHAPE, own, rates, upstream
from tests.bench.results import Findings, Result, Row, run_alone
from tests.bench.samplers import greedy
from tests.fakes.engine_rig import load_model
from tests.fakes.tiny_model import mx, write_model

ROWS = 8
BITS = (4, 8)


def row(directory: Path, bits: int, rounds: int) -> Row:
    """One width; the note is what the engine says of its choice."""
    path = write_model(directory, dtype=mx.bfloat16, bits=bits, **SHAPE)
    expanded = load_model(path)
    found = rates(
        {
            "as shipped tokens/s": upstream(path, ROWS),
            "engine tokens/s": own(expanded, ROWS, greedy),
        },
        rounds,
    )
    shipped_rate, expanded_rate = found.values()
    ratio = expanded_rate / shipped_rate
    return {"bits": bits, **found, "ratio": ratio, "the engine says": expanded.dtype_note}


def measure(rounds: int) -> Findings:
    """Every width in turn."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as directory:
        rows = [row(Path(directory) / str(bits), bits, rounds) for bits in BITS]
    results = [
        Result(f"{row['bits']}-bit weights over as shipped, {ROWS} rows", float(row["ratio"]), 3.0)
        for row in rows
    ]
    return Findings(results, {"quantized weights": rows})


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=1)
