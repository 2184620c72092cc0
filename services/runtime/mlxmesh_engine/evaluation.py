"""When MLX computes: its two untyped calls, typed."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import mlx.core as mx

_eval = cast("Callable[..., None]", getattr(mx, "eval"))  # noqa: B009
_async_eval = cast("Callable[..., None]", getattr(mx, "async_eval"))  # noqa: B009


def compute(arrays: Iterable[mx.array]) -> None:
    """Computes the arrays and waits for them."""
    _eval(*arrays)


def start_computing(arrays: Iterable[mx.array]) -> None:
    """Hands the arrays' computation to the device and returns."""
    _async_eval(*arrays)


def token_ids(tokens: mx.array) -> list[int]:
    """The tokens (batch,) on the host; waits for them."""
    compute([tokens])
    return cast("list[int]", cast("Any", tokens).tolist())
