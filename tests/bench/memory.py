"""The memory floor of decoding: what reading the weights once a step costs on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from tests.bench.results import Row

_VALUES = 2**27
_RUNS = 5


def read_bytes_per_s() -> float:
    """The fastest of several reads of 512 MiB, which no cache holds, on all of numpy's threads."""
    values = np.ones(_VALUES, np.float32)
    best_s = min(_timed(values) for _ in range(_RUNS))
    return values.nbytes / best_s


def _timed(values: np.ndarray) -> float:
    start_s = time.perf_counter()
    np.dot(values, values)
    return time.perf_counter() - start_s


def traffic_row(
    key: Mapping[str, str], weights_bytes: int, tokens_per_second: float, machine_bytes_per_s: float
) -> Row:
    """One stream reads all weights for each token: how much of the machine's bandwidth that is."""
    bytes_per_s = weights_bytes * tokens_per_second
    return {
        **key,
        "weights MB": weights_bytes / 1e6,
        "tokens/s at 1": tokens_per_second,
        "GB/s read": bytes_per_s / 1e9,
        "of the machine's": bytes_per_s / machine_bytes_per_s,
    }
