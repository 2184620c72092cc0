"""What a thread that used MLX does last."""

import contextlib
import sys
from collections.abc import Generator


@contextlib.contextmanager
def mlx_released() -> Generator[None]:
    """Releases afterwards what MLX keeps for this thread: its streams and compiled functions.

    Otherwise the destructors of the native thread do so, which `join` does not wait for. They take
    the interpreter lock, and a process that ends meanwhile is aborted.
    Source: ml-explore/mlx, pull request 4373.
    """
    try:
        yield
    finally:
        if (mlx := sys.modules.get("mlx.core")) is not None:
            mlx.clear_streams()
