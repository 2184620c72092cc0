"""The engine's step loop beside mlx-lm's BatchGenerator, in process: same weights, dtype and BLAS.

Prints tokens/s at 1, 8 and 32 rows as medians of interleaved rounds, and their ratios.
Run: .venv/bin/python -m tests.bench.bench_engine [--rounds 5]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlxmesh_engine.blas import prepare_blas

prepare_blas()

from mlx_lm.generate import BatchGenerator  # noqa: E402 - only after the BLAS

from mlxmesh_engine.loader import LoadedModel  # noqa: E402
from mlxmesh_engine.request import Sampling, Sequence  # noqa: E402
from tests.fakes.engine_rig import Rig, load_model  # noqa: E402
from tests.fakes.tiny_model import write_model  # noqa: E402

VOCAB_SIZE = 4096
PROMPT_TOKENS = 64
NEW_TOKENS = 64
ROWS = (1, 8, 32)

Workload = Callable[[], int]
"""Runs once and returns the number of tokens made."""


def requests(rows: int, sampling: Callable[[int], Sampling]) -> list[Sequence]:
    rng = np.random.default_rng(rows)
    return [
        Sequence(
            (1, number),
            tuple(int(token) for token in rng.integers(0, VOCAB_SIZE, PROMPT_TOKENS)),
            NEW_TOKENS,
            sampling=replace(sampling(number), seed=number),
        )
        for number in range(1, rows + 1)
    ]


def greedy(number: int) -> Sampling:
    return Sampling()


def mixed(number: int) -> Sampling:
    """32 different settings, as many clients would send them."""
    kinds = [
        Sampling(),
        Sampling(temperature=0.7 + number / 100),
        Sampling(temperature=1, top_p=0.8 + number / 200),
        Sampling(temperature=0.9, top_k=10 + number),
        Sampling(temperature=1, min_p=0.02 + number / 1000),
        Sampling(temperature=0.8, repetition_penalty=1.05 + number / 1000),
        Sampling(temperature=1, presence_penalty=number / 40, frequency_penalty=0.1),
        Sampling(temperature=1, top_p=0.95, top_k=50, min_p=0.01),
    ]
    return kinds[number % len(kinds)]


def own(loaded: LoadedModel, rows: int, sampling: Callable[[int], Sampling]) -> Workload:
    def run() -> int:
        rig = Rig(loaded, clock=time.monotonic).submit(*requests(rows, sampling)).run()
        return sum(len(rig.tokens(number)) for number in range(1, rows + 1))

    return run


def upstream(loaded: LoadedModel, rows: int) -> Workload:
    model: Any = loaded.model

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(
            Path(folder),
            hidden=256,
            layers=4,
            vocab_size=VOCAB_SIZE,
            num_attention_heads=8,
            num_key_value_heads=4,
            intermediate_size=704,
            eos_token_id=None,
        )
        loaded = load_model(path)
    print(f"{loaded.dtype}, {loaded.blas}; medians of {rounds} rounds, tokens/s")
    print(" rows  BatchGenerator   greedy    mixed   ratio  mixed/greedy")
    for rows in ROWS:
        found = rates(
            {
                "upstream": upstream(loaded, rows),
                "greedy": own(loaded, rows, greedy),
                "mixed": own(loaded, rows, mixed),
            },
            rounds,
        )
        ratio, cost = found["greedy"] / found["upstream"], found["mixed"] / found["greedy"]
        print(
            f"{rows:>5} {found['upstream']:>15.0f} {found['greedy']:>8.0f} "
            f"{found['mixed']:>8.0f} {ratio:>7.2f} {cost:>13.2f}"
        )


if __name__ == "__main__":
    main()
