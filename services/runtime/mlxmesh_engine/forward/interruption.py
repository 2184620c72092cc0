"""Ends a pass of background work early, when a foreground sequence has arrived."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from mlxmesh_engine.cpu.forward import Interrupted
from mlxmesh_engine.forward.forward_pass import Forward

# Then one pass runs to its end, so that background work never starves. So few arrivals wait for
# one that the 95th percentile of their times does not show it.
_MAX_CONSECUTIVE = 32


class Interruption:
    """Owned by the MLX thread; `wanted` may be set by another one."""

    def __init__(self, forward: Forward, wanted: Callable[[], bool]) -> None:
        self._forward = forward
        self._wanted = wanted
        self._consecutive = 0

    @contextmanager
    def allowed(self) -> Generator[None]:
        """Passes in this context may be interrupted: it then ends without an error.

        Whoever uses it must leave everything as it was when a pass is interrupted.
        """
        if self._consecutive < _MAX_CONSECUTIVE:
            self._forward.interrupt_when(self._wanted)
        try:
            yield
            self._consecutive = 0
        except Interrupted:
            self._consecutive += 1
        finally:
            self._forward.interrupt_when(None)
