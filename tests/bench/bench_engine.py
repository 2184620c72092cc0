"""The engine's step loop beside mlx-lm's BatchGenerator, in process: same weights, dtype and BLAS.

Prints tokens/s at 1, 8 and 32 rows as medians of interleaved rounds, and their ratios.
Run: .venv/bin/python -m tests.bench.bench_engine [--rounds 5]
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()

from mlx_lm.generate import BatchGenerator  # noqa: E402 - only after the BLAS
from mlx_lm.utils import load_model as load_as_shipped  # noqa: E402

from mlxmesh_engine.forward.loader import LoadedModel  # noqa: E402
from mlxmesh_engine.scheduling.request import Sampling, SequenceRequest  # noqa: E402
from tests.bench.results import Findings, Result, Row, run_alone  # noqa: E402
from tests.bench.samplers import Settings, greedy, mixed  # noqa: E402
from tests.fakes.engine_rig import Rig, load_model  # noqa: E402
from tests.fakes.tiny_model import write_model  # noqa: E402

VOCAB_SIZE = 4096
PROMPT_TOKENS = 64
NEW_TOKENS = 64
ROWS = (1, 8, 32)
SHAPE: dict[str, Any] = {
    "hidden": 256,
    "layers": 4,
    "vocab_size": VOCAB_SIZE,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 704,
    "eos_token_id": None,
}
"""About 4 M parameters, as `write_model` takes them."""

Workload = Callable[[], int]
"""Runs once and returns the number of tokens made."""


def requests(rows: int, sampling: Callable[[int], Settings]) -> list[SequenceRequest]:
    rng = np.random.default_rng(rows)
    return [
        SequenceRequest(
            (1, number),
            tuple(int(token) for token in rng.integers(0, VOCAB_SIZE, PROMPT_TOKENS)),
            NEW_TOKENS,
            sampling=Sampling(**sampling(number)),
        )
        for number in range(1, rows + 1)
    ]


def own(loaded: LoadedModel, rows: int, sampling: Callable[[int], Settings]) -> Workload:
    def run() -> int:
        rig = Rig(loaded, clock=time.monotonic).submit(*requests(rows, sampling)).run()
        return sum(len(rig.tokens(number)) for number in range(1, rows + 1))

    return run


def upstream(path: Path, rows: int) -> Workload:
    """mlx-lm's own batching on its own model, in the type that the weights are shipped in."""
    model, _ = load_as_shipped(path)

    def run() -> int:
        generator = BatchGenerator(model, max_tokens=NEW_TOKENS)
        generator.insert([list(each.prompt) for each in requests(rows, greedy)])
        made, left = 0, rows
        while left:
            _, responses = generator.next()
            made += len(responses)
            left -= sum(response.finish_reason is not None for response in responses)
        generator.close()
        return made

    return run


def rates(workloads: dict[str, Workload], rounds: int) -> dict[str, float]:
    """Median tokens/s of each, the rounds of all interleaved."""
    for workload in workloads.values():
        workload()
    found: dict[str, list[float]] = {name: [] for name in workloads}
    for _ in range(rounds):
        for name, workload in workloads.items():
            started_s = time.perf_counter()
            made = workload()
            found[name].append(made / (time.perf_counter() - started_s))
    return {name: statistics.median(values) for name, values in found.items()}


def measure(rounds: int) -> Findings:
    """All numbers of rows in turn, on one loaded model."""
    rows: list[Row] = []
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder:
        path = write_model(Path(folder), **SHAPE)
        loaded = load_model(path)
        for count in ROWS:
            sides = {
                "BatchGenerator tokens/s": upstream(path, count),
                "greedy tokens/s": own(loaded, count, greedy),
                "mixed tokens/s": own(loaded, count, mixed),
            }
            upstream_rate, greedy_rate, mixed_rate = (found := rates(sides, rounds)).values()
            ratio = greedy_rate / upstream_rate
            rows.append(
                {"rows": count, **found, "ratio": ratio, "mixed/greedy": mixed_rate / greedy_rate}
            )
            results.append(Result(f"engine alone over BatchGenerator, {count} rows", ratio, 1.0))
    return Findings(results, {f"the engine's step loop, {loaded.dtype}, {loaded.blas}": rows})


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=5)
