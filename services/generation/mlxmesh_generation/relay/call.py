"""One call that a relay carries."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc import aio

from mlxmesh_generation.relay.outbox import OutputStream
from mlxmesh_shared.errors import Cancelled, DeadlineExceeded
from mlxmesh_shared.rpc.carried_call import Behaviour, CarriedCall, Metadata


class RelayedCall(CarriedCall):
    """A call in a task of its own, which a gateway may cancel."""

    def __init__(
        self,
        carrier: aio.ServicerContext[Any, Any],
        *,
        request: bytes,
        metadata: Metadata,
        timeout_s: float | None,
        output: OutputStream,
    ) -> None:
        super().__init__(
            carrier, request=request, metadata=metadata, timeout_s=timeout_s, write=output.write
        )
        self.output = output
        self._expired = False
        self._task: asyncio.Task[None] | None = None

    def start(self, behaviour: Behaviour) -> asyncio.Task[None]:
        """Runs the call in a task, which ends after the call's end was queued."""
        self._task = asyncio.create_task(self._run(behaviour))
        return self._task

    def cancel(self) -> None:
        """As when a caller cancels; nothing more is sent."""
        self.output.discard()
        self._end()

    def time_remaining(self) -> float | None:
        return 0.0 if self._expired else super().time_remaining()

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, behaviour: Behaviour) -> None:
        timer = self._loop.call_at(self._until_s, self._expire) if self._until_s else None
        try:
            await behaviour(None, self)
        except aio.AbortError:
            pass  # abort_with_status() has noted the error
        except asyncio.CancelledError:
            self.error = _EXPIRED if self._expired else _CANCELLED
        finally:
            if timer is not None:
                timer.cancel()
            self.output.end(self.error)

    def _expire(self) -> None:
        self._expired = True
        self._end()


_EXPIRED = DeadlineExceeded("the deadline passed before the response was complete; allow more time")
_CANCELLED = Cancelled("the call was cancelled")
