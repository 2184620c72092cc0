"""The forward pass for CPUs at real sizes: each part's time, beside the floor and mlx-lm's pass.

    .venv/bin/python -m tests.bench.bench_forward [--rounds 3] [--json FILE]

SmolLM2-135M and a random model of Qwen3-0.6B's shape, in float32, in this process. Floors: the
arithmetic of all products at the speed of a large product, or reading all weights once at the
speed of this machine's memory, whichever takes longer. Times are CPU time of this thread, which
other work on the machine lengthens less than wall time.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()

import mlx.core as mx  # noqa: E402 - only after the BLAS
import mlx_lm.utils  # noqa: E402
from mlx.utils import tree_flatten, tree_map  # noqa: E402
from mlx_lm.models import qwen3  # noqa: E402
from mlx_lm.models.cache import make_prompt_cache  # noqa: E402

from mlxmesh_engine.cpu import attention, families, forward, products, units  # noqa: E402
from tests.bench.bench_products import machine_speed  # noqa: E402
from tests.bench.results import Findings, Result, Row, run_alone  # noqa: E402
from tests.bench.serving import write_smollm2  # noqa: E402

PROMPT_TOKENS = 500
CONTEXT_TOKENS = 64
DECODE_ROWS = (1, 8, 32)
QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
PARTS = {
    "products": (products.Product, "__call__"),
    "attention": (forward, "attend"),
    "norms": (forward, "normalize"),
    "gates": (units, "activate"),
    "keys and values": (forward.Step, "append"),
    "angles": (forward.Step, "rotation"),
    "of attention: exponentials": (attention, "exponentials"),
}


def write_qwen3_shape(directory: Path) -> None:
    """Random bfloat16 weights in the shape of Qwen3-0.6B."""
    directory.mkdir(parents=True)
    model = qwen3.Model(cast("Any", qwen3.ModelArgs).from_dict(QWEN3))
    narrow = tree_map(lambda array: array.astype(mx.bfloat16), model.parameters())
    mx.save_safetensors(str(directory / "model.safetensors"), dict(tree_flatten(narrow)))
    (directory / "config.json").write_text(json.dumps(QWEN3))


@contextlib.contextmanager
def timing(spent: dict[str, float]) -> Iterator[None]:
    """Adds the CPU time of each part to `spent`."""
    originals = {name: getattr(owner, attribute) for name, (owner, attribute) in PARTS.items()}

    def timed(name: str) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            start = time.thread_time()
            result = originals[name](*args, **options)
            spent[name] = spent.get(name, 0.0) + time.thread_time() - start
            return result

        return run

    for name, (owner, attribute) in PARTS.items():
        setattr(owner, attribute, timed(name))
    try:
        yield
    finally:
        for name, (owner, attribute) in PARTS.items():
            setattr(owner, attribute, originals[name])


class OwnPass:
    """The forward pass for CPUs."""

    def __init__(self, model: Any, layout: products.Layout) -> None:
        self._pass = forward.DecoderPass(families.describe(model, layout))

    def prefill(self, rows: int, tokens: int) -> Any:
        """Returns the cache."""
        cache = self._pass.new_cache([None] * rows)
        prompt = list(range(3, 3 + tokens))
        self._pass.hidden([prompt] * rows, cache.sequences)
        return cache

    def decode(self, cache: Any) -> None:
        """One step of all rows."""
        hidden = self._pass.hidden([[5]] * cache.rows, cache.sequences)
        self._pass.scores(hidden)


class MlxLmPass:
    """mlx-lm's own pass in float32 on the same BLAS."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def prefill(self, rows: int, tokens: int) -> Any:
        """Returns the cache; computes only keys and values, as `BatchGenerator` does."""
        cache = make_prompt_cache(self._model)
        self._model(mx.array([list(range(3, 3 + tokens))] * rows), cache=cache)
        mx.eval([layer.state for layer in cache])
        return rows, cache

    def decode(self, cache: Any) -> None:
        """One step of all rows."""
        rows, layers = cache
        mx.eval(self._model(mx.array([[5]] * rows), cache=layers))


def rows_of(name: str, directory: Path, rounds: int, flops: float, bandwidth: float) -> list[Row]:
    """One model: a prompt, then steps of 1, 8 and 32 rows."""
    model = cast("Any", mlx_lm.utils).load_model(directory, lazy=True)[0]
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    head = model.model.embed_tokens.weight.size
    blocks = sum(array.size for _, array in cast("Any", tree_flatten)(model.parameters())) - head
    upstream = MlxLmPass(model)
    cases = [("prefill", 1, PROMPT_TOKENS)] + [("decode", rows, 1) for rows in DECODE_ROWS]
    theirs = [wall(upstream, *case, rounds=rounds) for case in cases]
    layout = products.choose_layout()
    own = OwnPass(model, layout)
    del model, upstream
    found: list[Row] = []
    for case, upstream_s in zip(cases, theirs, strict=True):
        kind, rows, tokens = case
        used = blocks + (head if kind == "decode" else 0)
        floor_s = max(2 * used * rows * tokens / flops, 4 * used / bandwidth)
        spent: dict[str, float] = {}
        with timing(spent):
            total_s = measured(own, *case, spent=spent)
        found.append(
            {
                "model": name,
                "layout": "blocked" if layout.blocked else "plain",
                "pass": f"{kind}, {rows * tokens} tokens",
                "floor ms": 1e3 * floor_s,
                "CPU ms": 1e3 * total_s,
                "over the floor": total_s / floor_s,
                **{f"{part} ms": 1e3 * spent.get(part, 0.0) for part in PARTS},
                "mlx-lm over it, wall": upstream_s / wall(own, *case, rounds=rounds),
            }
        )
    return found


def work_of(subject: Any, kind: str, rows: int, tokens: int) -> Callable[[], object]:
    """A prompt's prefill, or a decode step after a short context."""
    if kind == "prefill":
        return lambda: subject.prefill(rows, tokens)
    cache = subject.prefill(rows, CONTEXT_TOKENS)
    return lambda: subject.decode(cache)


def wall(subject: Any, kind: str, rows: int, tokens: int, *, rounds: int) -> float:
    """Seconds on the wall: mlx computes on threads of its own."""
    work = work_of(subject, kind, rows, tokens)
    work()

    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(once() for _ in range(rounds))


def measured(subject: Any, kind: str, rows: int, tokens: int, *, spent: dict[str, float]) -> float:
    """CPU seconds of the second run, with its parts in `spent`."""
    work = work_of(subject, kind, rows, tokens)
    work()
    spent.clear()
    start = time.thread_time()
    work()
    return time.thread_time() - start


def at_most(name: str, row: Row, wanted: float) -> Result:
    """The row's time over its floor."""
    return Result(name, float(row["over the floor"]), wanted, at_least=False)


def measure(rounds: int) -> Findings:
    """Both models."""
    mx.set_default_device(mx.Device(mx.cpu))
    flops, bandwidth = machine_speed(rounds)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder:
        for name, write in (("smollm2", write_smollm2), ("qwen3-0.6b shape", write_qwen3_shape)):
            directory = Path(folder) / name
            write(directory)
            rows += rows_of(name, directory, rounds, flops, bandwidth)
    prefill, one, eight, _ = [row for row in rows if row["model"] != "smollm2"]
    results = [
        Result(
            "prefill of 500 tokens over its products",
            float(prefill["over the floor"]),
            2.0,
            at_least=False,
        ),
        Result(
            "decode of one row over its floor", float(one["over the floor"]), 1.5, at_least=False
        ),
        Result("8 rows over one, tokens/s", 8 * float(one["CPU ms"]) / float(eight["CPU ms"]), 5.0),
    ]
    title = f"forward passes ({flops / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.0f} GB/s)"
    return Findings(
        results,
        {
            title: rows,
        },
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=3)
