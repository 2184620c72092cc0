"""Embeddings of all-MiniLM-L6-v2 in an engine's thread: calls of 1 to 64 inputs, and one by one.

    .venv/bin/python -m tests.bench.bench_embeddings [--rounds 3] [--json FILE]

Inputs of 16, 64 and 256 random tokens, in float32; inputs/s, medians of interleaved rounds. Then
the time of a call with one input while another caller's call of 2,048 inputs runs, beside the time
on an idle engine. With onnxruntime installed and MLXMESH_BENCH_ONNX naming a graph of the same
model, its inputs/s with the same batches.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()

from mlxmesh_engine.encoder.inputs import EncodeCall, TokenInput  # noqa: E402 - only after the BLAS
from mlxmesh_engine.encoder.loader import load_encoder  # noqa: E402
from mlxmesh_engine.service.encoder_thread import EncoderThread  # noqa: E402
from tests.bench.results import Findings, Result, Row, run_alone  # noqa: E402
from tests.fakes.minilm import minilm  # noqa: E402
from tests.fakes.tiny_model import BLAS  # noqa: E402

LENGTHS = (16, 64, 256)
COUNTS = (1, 4, 16, 64)
ALONE = 8
LONG_CALL, LONG_TOKENS = 2048, 16
SMALL_CALLS = 5
MIN_RATIO, MAX_DELAYED_S = 1.0, 2.0

_RNG = np.random.default_rng(0)


def inputs(count: int, tokens: int) -> tuple[TokenInput, ...]:
    found = _RNG.integers(1000, 30_000, (count, tokens)).astype(np.int32)
    return tuple(TokenInput(row) for row in found)


async def call_s(thread: EncoderThread, given: tuple[TokenInput, ...], caller: str = "") -> float:
    """The time of one call."""
    began_s = time.perf_counter()
    await thread.encode(EncodeCall(given, caller=caller, submitted_s=time.monotonic()))
    return time.perf_counter() - began_s


async def rates(thread: EncoderThread, tokens: int, rounds: int) -> tuple[float, dict[int, float]]:
    """Inputs/s one by one, and in calls of each count."""
    alone: list[float] = []
    together: dict[int, list[float]] = {count: [] for count in COUNTS}
    await call_s(thread, inputs(ALONE, tokens))
    for _ in range(rounds):
        times = [await call_s(thread, inputs(1, tokens)) for _ in range(ALONE)]
        alone.append(ALONE / sum(times))
        for count in COUNTS:
            together[count].append(count / await call_s(thread, inputs(count, tokens)))
    medians = {count: statistics.median(found) for count, found in together.items()}
    return statistics.median(alone), medians


async def delays(thread: EncoderThread) -> tuple[float, float]:
    """Seconds of a call with one input on an idle engine, and beside a call with thousands."""
    small = inputs(1, LONG_TOKENS)
    idle = [await call_s(thread, small) for _ in range(SMALL_CALLS)]
    long = asyncio.create_task(call_s(thread, inputs(LONG_CALL, LONG_TOKENS), "long"))
    await asyncio.sleep(0.1)
    busy = [await call_s(thread, small, "small") for _ in range(SMALL_CALLS)]
    if long.done():
        raise RuntimeError("the long call ended before the others were measured")
    long.cancel()
    await asyncio.wait([long])
    return statistics.median(idle), statistics.median(busy)


def onnx_rates() -> Callable[[int, int], float] | None:
    """Inputs/s of onnxruntime with a batch; None if it is not installed or no graph is named."""
    path = os.environ.get("MLXMESH_BENCH_ONNX")
    if not path:
        return None
    try:
        onnxruntime: Any = import_module("onnxruntime")
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path)

    def rate(count: int, tokens: int) -> float:
        ids: NDArray[np.int64] = np.stack([i.token_ids for i in inputs(count, tokens)]).astype("i8")
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        session.run(None, feed)
        began_s = time.perf_counter()
        session.run(None, feed)
        return count / (time.perf_counter() - began_s)

    return rate


async def measured(rounds: int) -> Findings:
    directory = minilm()
    thread = EncoderThread(
        lambda: load_encoder(
            directory,
            kind="embedding",
            blas=BLAS,
            available_bytes=lambda: psutil.virtual_memory().available,
        )
    )
    await thread.start(lambda *_: None)
    rows: list[Row] = []
    results: list[Result] = []
    peer = onnx_rates()
    try:
        for tokens in LENGTHS:
            alone, together = await rates(thread, tokens, rounds)
            for count, rate in together.items():
                row: dict[str, int | float | str] = {
                    "tokens": tokens,
                    "inputs": count,
                    "inputs/s": rate,
                    "tokens/s": rate * tokens,
                    "over one by one": rate / alone,
                }
                if peer is not None:
                    row["over onnxruntime"] = rate / peer(count, tokens)
                rows.append(row)
            name = f"64 inputs of {tokens} tokens, over one by one"
            results.append(Result(name, together[64] / alone, MIN_RATIO))
        idle_s, busy_s = await delays(thread)
    finally:
        await thread.stop()
    delayed: list[Row] = [{"idle ms": idle_s * 1e3, "beside 2,048 inputs ms": busy_s * 1e3}]
    results.append(Result("a call beside 2,048 inputs", busy_s, MAX_DELAYED_S, "s", at_least=False))
    return Findings(results, {"embeddings": rows, "a call with one input": delayed})


def measure(rounds: int) -> Findings:
    """Throughput, then delays."""
    return asyncio.run(measured(rounds))


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=3)
