"""The generations that ran through this gateway lately, without any text.

Nothing is recorded while a generation runs: its `Used` has the figures, which are read when
somebody asks. So a request costs two short steps, at its beginning and at its end.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile

from opentelemetry import trace

from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_shared.errors import Cancelled, Internal, MeshError

MAX_MESSAGE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class RequestFailure:
    """Why a request ended with an error; holds no exception, which would hold its stack."""

    code: int
    reason: str
    message: str


@dataclass(slots=True, eq=False)
class RequestEntry:
    """One generation."""

    number: int
    """Counts the requests of this gateway."""
    owner: str
    """The id of the principal."""
    protocol: str
    method: str
    model: str
    """As asked for."""
    trace_id: int
    start_ns: int
    """Unix time."""
    begin_ns: int
    """Of a monotonic clock."""
    used: Used
    change: int = 0
    """The number of the log's change at its end; 0 while it runs."""
    end_ns: int = 0
    failure: RequestFailure | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self.change > 0

    def first_output_ms(self) -> float:
        """From its arrival to its first output; 0 before."""
        first_ns = self.used.first_output_ns
        return max(0.0, (first_ns - self.begin_ns) / 1e6) if first_ns else 0.0

    def duration_ms(self, now_ns: int) -> float:
        """From its arrival to its end, or until now by the monotonic clock."""
        return max(0.0, ((self.end_ns or now_ns) - self.begin_ns) / 1e6)


class RequestLog:
    """The running requests, and the last ones that ended."""

    def __init__(
        self,
        max_requests: int,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """max_requests: of those that ended; how many run is limited at the door."""
        self.log_id = secrets.token_hex(8)
        """Differs at every start of the gateway."""
        self.change = 0
        """Counts the requests that began or ended."""
        self._clock, self._time_ns = clock, time_ns
        self._number = 0
        self._running: dict[int, RequestEntry] = {}
        self._ended: deque[RequestEntry] = deque(maxlen=max_requests)

    @contextmanager
    def recorded(
        self, used: Used, *, owner: str, protocol: str, method: str, model: str
    ) -> Generator[None]:
        """Records one generation, which runs until the body ends."""
        self._number += 1
        self.change += 1
        span = trace.get_current_span().get_span_context()
        entry = RequestEntry(
            number=self._number,
            owner=owner,
            protocol=protocol,
            method=method,
            model=model,
            trace_id=span.trace_id if span.is_valid else 0,
            start_ns=self._time_ns(),
            begin_ns=self._clock(),
            used=used,
        )
        self._running[entry.number] = entry
        try:
            yield
        except BaseException as error:
            entry.failure = _failure(error)
            raise
        finally:
            del self._running[entry.number]
            self.change += 1
            entry.change, entry.end_ns = self.change, self._clock()
            self._ended.append(entry)

    def changed_after(self, change: int) -> list[RequestEntry]:
        """All that run, the newest first, and those that ended after a change, the last first."""
        ended = takewhile(lambda entry: entry.change > change, reversed(self._ended))
        return [*reversed(self._running.values()), *ended]


def _failure(error: BaseException) -> RequestFailure:
    if isinstance(error, asyncio.CancelledError):
        error = Cancelled("the client ended the call")
    known = error if isinstance(error, MeshError) else Internal("internal error; see the log")
    message = known.message[:MAX_MESSAGE_CHARACTERS]
    return RequestFailure(known.code.value[0], known.reason, message)
