"""What choosing 32 tokens costs at small and large vocabularies, for each kind of sampler.

Prints CPU milliseconds a step (the least of interleaved rounds), beside greedy, one full sort of
the scores, and the score products of the same rows with a head of 256 wide.
Run: .venv/bin/python -m tests.bench.bench_sampling [--rounds 5] [--vocab 4096 --vocab 32768]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mlxmesh_engine.blas import prepare_blas

prepare_blas()

import mlx.core as mx  # noqa: E402 - only after the BLAS

from mlxmesh_engine.evaluation import compute  # noqa: E402
from mlxmesh_engine.request import Sampling, Sequence  # noqa: E402
from mlxmesh_engine.sampling import BatchSampler  # noqa: E402
from mlxmesh_engine.scheduler import Active  # noqa: E402
from tests.bench.bench_engine import greedy, mixed  # noqa: E402

ROWS = 32
HIDDEN = 256
VOCABULARIES = [4096, 32_768, 152_064]
KINDS: dict[str, Callable[[int], Sampling]] = {
    "greedy": greedy,
    "32 different": mixed,
    "temperature": lambda number: Sampling(temperature=0.8),
    "min_p": lambda number: Sampling(temperature=0.8, min_p=0.05),
    "top_k 40": lambda number: Sampling(temperature=0.8, top_k=40),
    "top_k 1000": lambda number: Sampling(temperature=0.8, top_k=1000),
    "top_p 0.9": lambda number: Sampling(temperature=0.8, top_p=0.9),
    "repetition": lambda number: Sampling(repetition_penalty=1.1),
    "frequency": lambda number: Sampling(frequency_penalty=0.1),
}

Step = Callable[[int], list[mx.array]]
"""What one step computes, by its number."""


def sampler_step(scores: mx.array, sampling: Callable[[int], Sampling]) -> Step:
    rows, vocab_size = scores.shape
    sampler = BatchSampler(vocab_size)
    sequences = [
        Sequence((1, row), tuple(range(20)), 1000, sampling=replace(sampling(row), seed=row))
        for row in range(rows)
    ]
    sampler.join([Active(sequence) for sequence in sequences])
    return lambda number: [sampler.sample(scores, [number] * rows), *sampler.arrays()]


def steps(vocab_size: int) -> dict[str, Step]:
    rng = np.random.default_rng(vocab_size)
    scores = mx.array(rng.normal(0, 2.4, (ROWS, vocab_size)).astype(np.float32))
    head = mx.array(rng.normal(0, 1, (vocab_size, HIDDEN)).astype(np.float32))
    hidden = mx.array(rng.normal(0, 1, (ROWS, HIDDEN)).astype(np.float32))
    compute([scores, head, hidden])
    found = {name: sampler_step(scores, sampling) for name, sampling in KINDS.items()}
    found["(a full sort)"] = lambda number: [mx.sort(scores, axis=-1)]
    found["(scores of a head)"] = lambda number: [hidden @ head.T]
    return found


def costs_ms(work: dict[str, Step], rounds: int) -> dict[str, float]:
    """The least CPU time of each, the rounds of all interleaved."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds):
        for name, step in work.items():
            started_s = time.process_time()
            compute(step(number))
            found[name].append((time.process_time() - started_s) * 1e3)
    return {name: min(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocab", type=int, action="append")
    options = parser.parse_args()
    vocabularies: list[int] = options.vocab or VOCABULARIES
    columns = [costs_ms(steps(vocab_size), options.rounds) for vocab_size in vocabularies]
    print(f"{ROWS} rows; CPU ms a step, and how many times the full sort is as long")
    print(f"{'vocabulary':<20}" + "".join(f"{vocab_size:>18}" for vocab_size in vocabularies))
    for name in columns[0]:
        cells = [
            f"{column[name]:>11.2f} {column['(a full sort)'] / column[name]:>6.1f}"
            for column in columns
        ]
        print(f"{name:<20}" + "".join(cells))


if __name__ == "__main__":
    main()
