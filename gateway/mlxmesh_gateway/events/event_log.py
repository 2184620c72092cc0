"""The events that this gateway retains, without duplicates, and the watches that read them."""

import secrets
from collections.abc import AsyncGenerator, Iterable

from mlxmesh.telemetry.v1 import events_pb2 as wire
from mlxmesh_shared.events import EventFilter, EventLog

MAX_KEPT = 4096
# A watch that skips so many events reports its position, so that it can continue from there.
MAX_UNTOLD = 256


class GatewayEventLog:
    """One log for each start of a gateway; its events are numbered, and unique by event_id."""

    def __init__(self, most_kept: int = MAX_KEPT) -> None:
        self.log_id = secrets.token_hex(8)
        self.events = EventLog(most_kept)
        self._most_known = 2 * most_kept
        self._known: dict[str, None] = {}  # ids, the oldest first

    def add(self, events: Iterable[wire.Event]) -> None:
        """Keeps copies of those that are new: without what their contract does not know, and
        without the message that they came with, all of which a reference would hold.
        """
        for event in events:
            if event.event_id in self._known:
                continue
            self._known[event.event_id] = None
            if len(self._known) > self._most_known:
                del self._known[next(iter(self._known))]
            kept = wire.Event()
            kept.CopyFrom(event)
            kept.sequence = self.events.newest + 1
            self.events.add(kept)

    async def watch(
        self, request: wire.WatchEventsRequest
    ) -> AsyncGenerator[wire.WatchEventsResponse]:
        """The requested events from the requested position on, or a Gap first; never ends."""
        sequence, gap = self._start(request)
        if gap is not None:
            yield self._response(sequence, gap=gap)
        backlog_end = told = self.events.newest
        if sequence >= backlog_end:
            yield self._response(sequence, synced=wire.EventsSynced())
        wanted = EventFilter(request.names, request.services, request.correlation_id)
        async for batch in self.events.follow(sequence):
            if batch.lost:
                yield self._response(batch.last - len(batch.events), gap=_gone(batch.lost))
            for event in filter(wanted.passes, batch.events):
                yield self._response(event.sequence, event=event)
                told = event.sequence
            if sequence < backlog_end <= batch.last or batch.last - told >= MAX_UNTOLD:
                yield self._response(batch.last, synced=wire.EventsSynced())
                told = batch.last
            sequence = batch.last

    def _start(self, request: wire.WatchEventsRequest) -> tuple[int, wire.Gap | None]:
        """The number to start after, and the gap before it, if any."""
        before_oldest = self.events.oldest - 1
        after = request.after_sequence
        if request.log_id not in ("", self.log_id) or after > self.events.newest:
            return before_oldest, wire.Gap(reason=wire.GAP_REASON_LOG_MISMATCH)
        if not request.HasField("after_sequence"):
            return before_oldest, None
        if after < before_oldest:
            return before_oldest, _gone(before_oldest - after)
        return after, None

    def _response(
        self,
        sequence: int,
        *,
        event: wire.Event | None = None,
        gap: wire.Gap | None = None,
        synced: wire.EventsSynced | None = None,
    ) -> wire.WatchEventsResponse:
        return wire.WatchEventsResponse(
            log_id=self.log_id, sequence=sequence, event=event, gap=gap, synced=synced
        )


def _gone(missing: int) -> wire.Gap:
    return wire.Gap(reason=wire.GAP_REASON_EXPIRED, missing_events=missing)
