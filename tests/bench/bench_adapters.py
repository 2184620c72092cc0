"""LoRA in the engine's step loop: 32 rows with 32 adapters, with one, and without.

    .venv/bin/python -m tests.bench.bench_adapters [--rounds 5] [--json FILE]

A 4 M-parameter Llama and adapters of rank 8 for all linear layers, in process: 32 rows of 64 prompt
and 64 new tokens, by the forward pass for CPUs and by mlx-lm's; tokens/s, medians of interleaved
rounds. Then the time to the first token of an adapter that is not in a slot, beside one that is.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlxmesh_engine.scheduling.request import AdapterSource
from tests.bench.bench_engine import SHAPE, Workload, rates, requests
from tests.bench.results import Findings, Result, Row, run_alone
from tests.bench.samplers import greedy
from tests.fakes.adapter_rig import write_source
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.tiny_model import write_model

ROWS = 32
RANK = 8
LOADS = 5
WANTED = 0.7


def workload(rig: Rig, sources: Sequence[AdapterSource | None]) -> Workload:
    """A row for each source, at once; what an earlier run loaded stays in its slot."""

    def run() -> int:
        first = len(rig.updates)
        rows = [
            replace(each, key=(STREAM, first + number), adapter=source)
            for number, (each, source) in enumerate(
                zip(requests(len(sources), greedy), sources, strict=True), 1
            )
        ]
        rig.submit(*rows).run()
        return sum(len(rig.tokens(row.key[1])) for row in rows)

    return run


def first_token_ms(rig: Rig, source: AdapterSource) -> float:
    (request,) = requests(1, greedy)
    key = (STREAM, len(rig.updates) + 1)
    began_s = time.perf_counter()
    rig.submit(replace(request, key=key, max_tokens=1, adapter=source)).run()
    return (time.perf_counter() - began_s) * 1e3


def measure(rounds: int) -> Findings:
    """Both passes in turn."""
    rows: list[Row] = []
    loads: list[Row] = []
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder:
        path = write_model(Path(folder) / "model", **SHAPE)
        sources = [
            write_source(Path(folder) / str(seed), path, seed=seed, rank=RANK)
            for seed in range(ROWS + LOADS)
        ]
        many, others = sources[:ROWS], sources[ROWS:]
        for name, cpu_forward in (("own", True), ("mlx-lm's", False)):
            rig = Rig(load_model(path, cpu_forward=cpu_forward), clock=time.monotonic)
            sides = {
                "none tokens/s": workload(rig, [None] * ROWS),
                "one adapter tokens/s": workload(rig, [many[0]] * ROWS),
                "32 adapters tokens/s": workload(rig, many),
                "16 and none tokens/s": workload(rig, [*many[: ROWS // 2], *[None] * (ROWS // 2)]),
            }
            base, one, all_, _ = (found := rates(sides, rounds)).values()
            rows.append({"pass": name, **found, "32 / one": all_ / one, "one / none": one / base})
            results.append(Result(f"32 adapters over one, {name} pass", all_ / one, WANTED))
            cold = statistics.median(first_token_ms(rig, source) for source in others)
            warm = statistics.median(first_token_ms(rig, source) for source in others)
            loads.append({"pass": name, "cold ms": cold, "warm ms": warm, "load ms": cold - warm})
    return Findings(results, {"32 rows with adapters": rows, "first token of an adapter": loads})


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=5)
