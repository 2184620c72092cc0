"""An encoder whose results are the first token of each input, and which fails as told."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.encoder.inputs import TokenInput

FAILS, NOT_FINITE = 666, 777
"""Tokens: a batch with one fails, or has a result that is not finite."""


class ScriptedEncoder:
    """As `LoadedEncoder`; waits for `go` in each batch."""

    dtype = "float16"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()

    def encode(self, inputs: list[TokenInput], progress: Callable[[], None]) -> NDArray[np.float32]:
        tokens = [int(each.token_ids[0]) for each in inputs]
        self.batches.append(tokens)
        self.began.set()
        if not self.go.wait(20):
            raise TimeoutError("the test did not let the batch go")
        progress()
        if FAILS in tokens:
            raise RuntimeError("out of memory")
        results = np.array(tokens, np.float32)[:, None]
        results[results == NOT_FINITE] = np.inf
        return results


def loaded(encoder: ScriptedEncoder) -> Callable[[], Any]:
    """What an `EncoderThread` loads."""
    return lambda: encoder
