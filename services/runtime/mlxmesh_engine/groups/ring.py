"""The ring on which the ranks of a group exchange tensors, by mx.distributed.

Source: mlx/distributed/ring, mlx 0.32.4. It has neither encryption nor authentication, and opening
it holds Python's lock until the neighbours have connected.
"""

import faulthandler
import json
import os
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import mlx.core as mx

Ring = Any
"""mx.distributed.Group, for which MLX has no type at run time."""

_distributed = cast("Any", mx.distributed)


def open_ring(rank: int, addresses: Sequence[str], *, timeout_s: float = 60) -> Ring:
    """Connects to the neighbours. addresses: host:port of each rank, by rank.

    Ends the process after timeout_s without them: until it is open, no thread of Python runs.
    """
    with _described(rank, addresses), _ended_after(timeout_s):
        return _distributed.init(strict=True, backend="ring")


def all_sum(array: mx.array, ring: Ring) -> mx.array:
    return _distributed.all_sum(array, group=ring)


def all_gather(array: mx.array, ring: Ring) -> mx.array:
    """One row (1, ...) of each rank, by rank."""
    return _distributed.all_gather(array, group=ring)


@contextmanager
def _described(rank: int, addresses: Sequence[str]) -> Generator[None]:
    """Tells MLX the ranks as it wants it: by a file and the environment."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([[address] for address in addresses], file)
        file.flush()
        names = {"MLX_RANK": str(rank), "MLX_HOSTFILE": file.name}
        os.environ.update(names)
        try:
            yield
        finally:
            for name in names:
                del os.environ[name]


@contextmanager
def _ended_after(timeout_s: float) -> Generator[None]:
    faulthandler.dump_traceback_later(timeout_s, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class DeadMansSwitch:
    """Ends this process unless it is reset in time, even if Python's lock is never released.

    faulthandler counts in a thread of its own that needs no lock, and writes where each thread is.
    """

    def __init__(
        self,
        timeout_s: float,
        arm: Callable[[float], None] = lambda timeout_s: faulthandler.dump_traceback_later(
            timeout_s, exit=True
        ),
        disarm: Callable[[], None] = faulthandler.cancel_dump_traceback_later,
    ) -> None:
        self._timeout_s = timeout_s
        self._arm = arm
        self.disarm = disarm

    def reset(self) -> None:
        self._arm(self._timeout_s)
