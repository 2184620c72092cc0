"""What choosing 32 tokens costs at small and large vocabularies, for each kind of sampler.

Prints CPU milliseconds a step (the least of interleaved rounds), beside greedy, one full sort of
the scores, and the score products of the same rows with a head of 256 wide. Log-probabilities are
requested by one row or by all, each with the five most likely tokens, of greedy rows.
Run: .venv/bin/python -m tests.bench.bench_sampling [--rounds 5] [--vocab 4096 32768]
"""

import time
from collections.abc import Callable

import numpy as np

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()

import mlx.core as mx  # noqa: E402 - only after the BLAS

from mlxmesh_engine.evaluation import evaluate  # noqa: E402
from mlxmesh_engine.sampling.logprobs import BatchLogprobs  # noqa: E402
from mlxmesh_engine.sampling.sampler import BatchSampler  # noqa: E402
from mlxmesh_engine.scheduling.request import (  # noqa: E402
    LogprobOptions,
    Sampling,
    SequenceRequest,
)
from mlxmesh_engine.scheduling.sequence import ActiveSequence  # noqa: E402
from tests.bench.results import Findings, Result, Row, run_alone  # noqa: E402
from tests.bench.samplers import Settings, greedy, mixed  # noqa: E402

ROWS = 32
HIDDEN = 256
VOCABULARIES = (4096, 32_768, 152_064)
MIXED, SORT = "32 different", "(a full sort)"
KINDS: dict[str, Callable[[int], Settings]] = {
    "greedy": greedy,
    MIXED: mixed,
    "temperature": lambda number: {"temperature": 0.8},
    "min_p": lambda number: {"temperature": 0.8, "min_p": 0.05},
    "top_k 40": lambda number: {"temperature": 0.8, "top_k": 40},
    "top_k 1000": lambda number: {"temperature": 0.8, "top_k": 1000},
    "top_p 0.9": lambda number: {"temperature": 0.8, "top_p": 0.9},
    "repetition": lambda number: {"repetition_penalty": 1.1},
    "frequency": lambda number: {"frequency_penalty": 0.1},
}

LOGPROBS_OF_ONE, LOGPROBS_OF_ALL = "logprobs top 5, one row", "logprobs top 5, all rows"
TOP_5 = LogprobOptions(top=5)

Step = Callable[[int], list[mx.array]]
"""What one step computes, by its number."""


def sampler_step(scores: mx.array, sampling: Callable[[int], Settings]) -> Step:
    rows, vocab_size = scores.shape
    sampler = BatchSampler(vocab_size)
    sequences = [
        SequenceRequest((1, row), tuple(range(20)), 1000, sampling=Sampling(**sampling(row)))
        for row in range(rows)
    ]
    sampler.join([ActiveSequence(sequence) for sequence in sequences])
    return lambda number: [sampler.sample(scores, [number] * rows), *sampler.arrays()]


def logprobs_step(scores: mx.array, asking: int) -> Step:
    """A greedy step in which this many rows need log-probabilities."""
    rows = scores.shape[0]
    subject = BatchLogprobs()
    subject.join(
        [
            ActiveSequence(
                SequenceRequest((1, row), (1, 2), 10, logprobs=TOP_5 if row < asking else None)
            )
            for row in range(rows)
        ]
    )
    choose = sampler_step(scores, greedy)

    def step(number: int) -> list[mx.array]:
        chosen = choose(number)
        launched = subject.compute(scores, chosen[0])
        return [*chosen, *(launched.arrays() if launched else ())]

    return step


def steps(vocab_size: int) -> dict[str, Step]:
    rng = np.random.default_rng(vocab_size)
    scores = mx.array(rng.normal(0, 2.4, (ROWS, vocab_size)).astype(np.float32))
    head = mx.array(rng.normal(0, 1, (vocab_size, HIDDEN)).astype(np.float32))
    hidden = mx.array(rng.normal(0, 1, (ROWS, HIDDEN)).astype(np.float32))
    evaluate([scores, head, hidden])
    found = {name: sampler_step(scores, sampling) for name, sampling in KINDS.items()}
    found[LOGPROBS_OF_ONE] = logprobs_step(scores, 1)
    found[LOGPROBS_OF_ALL] = logprobs_step(scores, ROWS)
    found[SORT] = lambda number: [mx.sort(scores, axis=-1)]
    found["(scores of a head)"] = lambda number: [hidden @ head.T]
    return found


def costs_ms(work: dict[str, Step], rounds: int) -> dict[str, float]:
    """The least CPU time of each, the rounds of all interleaved."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds):
        for name, step in work.items():
            started_s = time.process_time()
            evaluate(step(number))
            found[name].append((time.process_time() - started_s) * 1e3)
    return {name: min(values) for name, values in found.items()}


def measure(rounds: int, vocab: list[int]) -> Findings:
    """Every vocabulary in turn."""
    costs = {size: costs_ms(steps(size), rounds) for size in vocab}
    rows: list[Row] = [
        {"CPU ms a step, 32 rows": name, **{f"{size:,}": costs[size][name] for size in vocab}}
        for name in costs[vocab[0]]
    ]
    results = [
        Result(f"a full sort over 32 different samplers, {size:,}", cost[SORT] / cost[MIXED], 1.0)
        for size, cost in costs.items()
    ]
    results += [
        Result(f"greedy over {kind}, {size:,}", cost["greedy"] / cost[kind], wanted)
        for size, cost in costs.items()
        for kind, wanted in ((LOGPROBS_OF_ONE, 0.25), (LOGPROBS_OF_ALL, 0.05))
    ]
    return Findings(results, {"choosing tokens, by vocabulary": rows})


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=5, vocab=VOCABULARIES)
