"""What is to be sent to one worker; what has not been sent yet is merged into one message."""

import asyncio
from collections.abc import Sequence

from mlxmesh_jobs.domain.jobs import AttemptId, Claim
from mlxmesh_jobs.workers.messages import Orders


class Outbox:
    """Bounded by the worker's slots: it contains at most an assignment and the end of each."""

    def __init__(self) -> None:
        self._orders = Orders()
        self._filled = asyncio.Event()
        self._closed = False
        self._error: Exception | None = None
        self.assigned = 0
        """How many assignments were given to this stream."""

    @property
    def closed(self) -> bool:
        """Whether nothing is sent any more."""
        return self._closed

    def assign(self, claims: Sequence[Claim]) -> None:
        """Attempts to begin."""
        self.assigned += len(claims)
        self._orders.assignments += claims
        self._filled.set()

    def cancel(self, attempts: Sequence[AttemptId]) -> None:
        """Attempts to stop."""
        self._orders.cancellations += attempts
        self._filled.set()

    def fence(self, attempts: Sequence[AttemptId]) -> None:
        """Attempts of which nothing is stored any more."""
        self._orders.fenced += attempts
        self._filled.set()

    def confirm(self, number: int) -> None:
        """The updates of messages up to a number are stored."""
        self._orders.confirmed = max(self._orders.confirmed, number)
        self._filled.set()

    def close(self, error: Exception | None = None) -> None:
        """Ends the stream, after what is still to be sent; with an error if there is one."""
        if not self._closed:
            self._closed, self._error = True, error
            self._filled.set()

    async def take(self) -> Orders | None:
        """The next message; None at the end. Raises: the error that the stream ends with."""
        while not self._orders and not self._closed:
            self._filled.clear()
            await self._filled.wait()
        if self._orders:
            orders, self._orders = self._orders, Orders()
            return orders
        if self._error is not None:
            raise self._error
        return None
