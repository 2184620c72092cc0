"""The memory floor of decoding: what reading the weights once a step costs on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tests.bench.results import Row

_VALUES = 2**25
_RUNS = 40


def read_bytes_per_s() -> float:
    """The fastest of many reads of 128 MiB, more than a cache holds, by one thread.

    Each takes a few milliseconds, so that some are undisturbed also on a busy machine.
    """
    values = np.ones(_VALUES, np.uint32)
    best_s = min(_timed(values) for _ in range(_RUNS))
    return values.nbytes / best_s


def _timed(values: NDArray[np.uint32]) -> float:
    start_s = time.perf_counter()
    values.max()
    return time.perf_counter() - start_s


def traffic_row(
    key: Mapping[str, str], weights_bytes: int, tokens_per_second: float, thread_bytes_per_s: float
) -> Row:
    """One stream reads all weights for each token: how much of a thread's bandwidth that is."""
    bytes_per_s = weights_bytes * tokens_per_second
    return {
        **key,
        "weights MB": weights_bytes / 1e6,
        "tokens/s at 1": tokens_per_second,
        "GB/s read": bytes_per_s / 1e9,
        "of one thread's": bytes_per_s / thread_bytes_per_s,
    }
