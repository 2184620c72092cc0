"""Typed versions of MLX's two calls that evaluate arrays."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import mlx.core as mx

_eval = cast("Callable[..., None]", getattr(mx, "eval"))  # noqa: B009
_async_eval = cast("Callable[..., None]", getattr(mx, "async_eval"))  # noqa: B009


def evaluate(arrays: Iterable[mx.array]) -> None:
    """Evaluates the arrays and waits for the result."""
    _eval(*arrays)


def evaluate_async(arrays: Iterable[mx.array]) -> None:
    """Starts the evaluation of the arrays on the device and returns."""
    _async_eval(*arrays)


def token_ids(tokens: mx.array) -> list[int]:
    """Copies the tokens (batch,) to the host; waits for their evaluation."""
    evaluate([tokens])
    return cast("list[int]", cast("Any", tokens).tolist())
