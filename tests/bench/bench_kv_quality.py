"""What keys and values with fewer bits cost and give, on SmolLM2-135M, in process.

    .venv/bin/python -m tests.bench.bench_kv_quality [--rounds 2] [--json FILE]

Perplexity of texts that the model has not seen, this project's pages, in one window of 256 tokens
for each round, and bytes of a token, by the forward pass for CPUs and by mlx-lm's. Then tokens/s of
4 rows with one prompt of 128 tokens and 16 new ones, in interleaved rounds, by the pass for CPUs.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()

import mlx.core as mx  # noqa: E402 - only after the BLAS
import numpy as np  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from mlxmesh_engine.forward.loader import LoadedModel  # noqa: E402
from mlxmesh_engine.scheduling.request import SequenceRequest  # noqa: E402
from tests.bench.bench_engine import Workload, rates  # noqa: E402
from tests.bench.results import Findings, Result, Row, run_alone  # noqa: E402
from tests.bench.serving import write_smollm2  # noqa: E402
from tests.fakes.engine_rig import STREAM, Rig, load_model  # noqa: E402

DOCS = Path(__file__).parents[2] / "docs"
TEXTS = ("architecture.md", "speculation.md", "prefix_cache.md", "operations.md")
WINDOW_TOKENS = 256
ROWS, PROMPT_TOKENS, NEW_TOKENS = 4, 128, 16
TYPES = ("full", "8bit", "4bit")
MOST_PERPLEXITY = {"8bit": 1.01, "4bit": 1.15}
LEAST_TOKENS = {"8bit": 2.0, "4bit": 4.0}
"""As many more in the same memory."""


def windows(model: Path, count: int) -> list[list[int]]:
    """Consecutive tokens of the texts."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    text = "\n".join((DOCS / name).read_text() for name in TEXTS)
    ids: list[int] = tokenizer.encode(text).ids
    starts = range(0, len(ids) - WINDOW_TOKENS, WINDOW_TOKENS)
    return [ids[start : start + WINDOW_TOKENS] for start in starts][:count]


def perplexity(loaded: LoadedModel, texts: Sequence[Sequence[int]]) -> float:
    """Of all tokens but the first of each text."""
    surprise, count = 0.0, 0
    for text in texts:
        (scores,) = loaded.model.scores([text], loaded.model.new_cache([None]))
        scores = scores[:-1].astype(mx.float32)
        following = mx.array(list(text[1:]))[:, None]
        chosen = mx.take_along_axis(scores, following, axis=-1)[:, 0]
        surprise += float(np.array(mx.logsumexp(scores, axis=-1) - chosen).sum())
        count += len(text) - 1
    return math.exp(surprise / count)


def decoding(loaded: LoadedModel, text: Sequence[int]) -> Workload:
    """Rows with the same prompt, which share its prefill."""

    def run() -> int:
        prompt = tuple(text[:PROMPT_TOKENS])
        rows = [SequenceRequest((STREAM, at), prompt, NEW_TOKENS) for at in range(1, ROWS + 1)]
        rig = Rig(loaded, clock=time.monotonic).submit(*rows).run()
        return sum(len(rig.tokens(at)) for at in range(1, ROWS + 1))

    return run


def load_each(model: Path, *, cpu_forward: bool) -> dict[str, LoadedModel]:
    return {
        type_: load_model(model, cpu_forward=cpu_forward, kv_cache_type=type_) for type_ in TYPES
    }


def compare_speed(loaded: dict[str, LoadedModel], text: Sequence[int], rounds: int) -> list[Row]:
    speeds = rates({type_: decoding(each, text) for type_, each in loaded.items()}, rounds)
    return [
        {"type": type_, "tokens/s": speed, "over full": speed / speeds["full"]}
        for type_, speed in speeds.items()
    ]


def compare(name: str, loaded: dict[str, LoadedModel], texts: Sequence[Sequence[int]]) -> list[Row]:
    """The table of one pass: a line for each type."""
    perplexities = {type_: perplexity(each, texts) for type_, each in loaded.items()}
    full = loaded["full"].kv.token_bytes
    return [
        {
            "pass": name,
            "type": type_,
            "perplexity": perplexities[type_],
            "over full": perplexities[type_] / perplexities["full"],
            "bytes a token": each.kv.token_bytes,
            "tokens in as much memory": full / each.kv.token_bytes,
        }
        for type_, each in loaded.items()
    ]


def judged(rows: Sequence[Row]) -> list[Result]:
    found: list[Result] = []
    for row in rows:
        if (type_ := str(row["type"])) == "full":
            continue
        what, more = f"{type_}, {row['pass']} pass", float(row["tokens in as much memory"])
        ratio = float(row["over full"])
        found += [
            Result(f"perplexity over full, {what}", ratio, MOST_PERPLEXITY[type_], at_least=False),
            Result(f"tokens in as much memory, {what}", more, LEAST_TOKENS[type_]),
        ]
    return found


def measure(rounds: int) -> Findings:
    """Both passes in turn."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder:
        model = Path(folder) / "smollm2"
        write_smollm2(model)
        texts = windows(model, rounds)
        own = load_each(model, cpu_forward=True)
        rows, speeds = compare("own", own, texts), compare_speed(own, texts[0], rounds)
        del own
        rows += compare("mlx-lm's", load_each(model, cpu_forward=False), texts)
    return Findings(
        judged(rows), {"keys and values with fewer bits": rows, "decode, own pass": speeds}
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=2)
