"""What constraints cost: a mask at a large vocabulary, and tokens/s of 32 streams with 32 schemas.

The vocabulary is synthetic: byte-level, with pieces as long as those of large models. The load runs
in turns with the same load without constraints, on the demo model, in one process.
Run: .venv/bin/python -m tests.bench.bench_constraints [--rounds 5]
"""

import asyncio
import json
import random
import statistics
import string
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mlxmesh_engine.constraints.compiler import ConstraintCompiler
from mlxmesh_engine.constraints.masks import MaskThreads
from mlxmesh_engine.scheduling.request import (
    Constraint,
    Grammar,
    GrammarKind,
    Sampling,
    SequenceRequest,
)
from tests.bench.results import Findings, Result, median_ratio, run_alone
from tests.fakes.engine_rig import STREAM, Rig, load_model

VOCAB_SIZE = 152_064
ROWS = 32
NEW_TOKENS = 64
EOS = 0
DEMO_MODEL = Path(__file__).parents[2] / "deploy/demo-model/pocket"
MASK_LIMIT_US = 150.0
LOAD_RATIO = 0.85


def schema(number: int) -> str:
    """One of many different schemas, of the size that people send."""
    rng = random.Random(number)
    kinds = [
        {"type": "string"},
        {"type": "integer"},
        {"type": "array", "items": {"type": "string"}},
    ]
    properties = {f"field_{number}_{at}": rng.choice(kinds) for at in range(6)}
    return json.dumps(
        {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    )


def write_tokenizer(directory: Path) -> None:
    """A byte-level tokenizer with VOCAB_SIZE tokens, EOS the first."""
    rng = random.Random(0)
    tokens = {"</s>": EOS}
    for piece in sorted(pre_tokenizers.ByteLevel.alphabet()):
        tokens.setdefault(piece, len(tokens))
    while len(tokens) < VOCAB_SIZE:
        word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9)))
        tokens.setdefault(rng.choice(("Ġ", "")) + rng.choice((word, word.title())), len(tokens))
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(directory / "tokenizer.json"))


def request(number: int, sampling: Sampling, new_tokens: int) -> SequenceRequest:
    grammar = Grammar(GrammarKind.JSON_SCHEMA, schema(number))
    return SequenceRequest(
        (STREAM, number),
        tuple(range(5, 37)),
        new_tokens,
        sampling=sampling,
        end_token_ids=frozenset({EOS}),
        constraint=Constraint(grammar),
    )


async def mask_times_us(steps: int) -> list[float]:
    """The time of the masks of one step, divided by its rows; random legal tokens are followed."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        write_tokenizer(Path(directory))
        compiler = ConstraintCompiler(
            Path(directory), vocab_size=VOCAB_SIZE, eos_token_ids=frozenset({EOS})
        )
        try:
            states = [await compiler.walker(request(at, Sampling(), steps)) for at in range(ROWS)]
        finally:
            compiler.close()
    threads, times = MaskThreads(VOCAB_SIZE), list[float]()
    tokens: list[tuple[int, ...]] = [()] * ROWS
    for _ in range(steps):
        started_s = time.perf_counter()
        masks = threads.start(states, tokens).result()
        times.append((time.perf_counter() - started_s) / ROWS * 1e6)
        tokens = [(int(rng.choice(np.flatnonzero(row))),) for row in masks.allowed]
    return times


def tokens_per_second(rig: Rig, requests: list[SequenceRequest]) -> float:
    """Of decode: the time from the first step with all rows on."""
    rig.submit(*requests)
    rig.step(2)
    started, started_s = _generated(rig), time.perf_counter()
    rig.run()
    return (_generated(rig) - started) / (time.perf_counter() - started_s)


def _generated(rig: Rig) -> int:
    return sum(len(update.token_ids) for all_ in rig.updates.values() for update in all_)


async def load_rates(rounds: int, new_tokens: int) -> tuple[list[float], list[float]]:
    """Tokens/s with and without constraints, the rounds in turns."""
    loaded = load_model(DEMO_MODEL)
    compiler = ConstraintCompiler(
        DEMO_MODEL, vocab_size=loaded.vocab_size, eos_token_ids=loaded.eos_token_ids
    )
    with_, without = list[float](), list[float]()
    try:
        for number in range(rounds):
            sampling = Sampling(temperature=0.8, seed=number)
            constrained = [request(at, sampling, new_tokens) for at in range(ROWS)]
            # Neither load ends before its limit: constrained rows stop at whole objects only.
            plain = [
                replace(each, constraint=None, end_token_ids=frozenset()) for each in constrained
            ]
            compiled = [
                replace(each, constraint_state=await compiler.walker(each)) for each in constrained
            ]
            without.append(tokens_per_second(Rig(loaded), plain))
            with_.append(tokens_per_second(Rig(loaded), compiled))
    finally:
        compiler.close()
    return with_, without


def measure(rounds: int) -> Findings:
    """Masks alone, then both loads."""
    times = asyncio.run(mask_times_us(NEW_TOKENS))
    with_, without = asyncio.run(load_rates(rounds, NEW_TOKENS))
    ratio = median_ratio(with_, without, float)
    return Findings(
        [
            Result(
                "mask of a row at 152k tokens",
                statistics.median(times),
                MASK_LIMIT_US,
                "us",
                at_least=False,
            ),
            Result("tokens/s with 32 schemas, beside none", ratio, LOAD_RATIO),
        ],
        {
            "masks, us a row": [
                {
                    "p50": round(statistics.median(times), 1),
                    "p99": round(float(np.quantile(times, 0.99)), 1),
                    "first": round(times[0], 1),
                }
            ],
            "32 streams": [
                {"round": at, "schemas": round(one), "none": round(other)}
                for at, (one, other) in enumerate(zip(with_, without, strict=True))
            ],
        },
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=5)
