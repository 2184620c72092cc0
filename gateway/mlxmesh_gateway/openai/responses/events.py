"""The events of a streamed response: a pure state machine.

The same calls give the same events with the same sequence numbers, so a stream that is replayed
from its beginning equals the first one, and any end of it resumes a stream that broke off.

Source: `openai.types.responses`, the classes Response*Event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mlxmesh_gateway.openai.responses.items import Body, Call, Item, Message, Reasoning
from mlxmesh_gateway.openai.responses.objects import (
    JsonObject,
    Progress,
    ResponseFacts,
    encode,
    error_object,
    item_id,
    response_object,
)
from mlxmesh_shared.errors import MeshError


class Event(NamedTuple):
    """One event as it is written."""

    sequence: int
    """0, 1, 2 and so on, without gaps."""
    name: str
    data: str
    """JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a generation ended without an error."""

    status: str
    """completed, incomplete or cancelled."""
    usage: JsonObject
    incomplete_reason: str | None = None


class ResponseEvents:
    """Turns what a generation does, in its order, into events."""

    def __init__(self, facts: ResponseFacts) -> None:
        self._facts = facts
        self._next = 0
        self._progress = Progress(status="queued", created_s=0.0)
        self._items: list[Item] = []
        self._statuses: list[str] = []
        self._open: list[int] = []
        self._message: Message | None = None
        self._current: Item | None = None
        self._calls = 0
        self._logprobs: list[JsonObject] = []

    @property
    def response(self) -> JsonObject:
        """The response as of the last event, with the output so far."""
        pairs = zip(self._items, self._statuses, strict=True)
        output = [item.as_output(status) for item, status in pairs]
        return response_object(self._facts, self._progress, output)

    @property
    def last_sequence(self) -> int:
        """The number of the last event; -1 before the first."""
        return self._next - 1

    def started(self, created_s: float) -> list[Event]:
        """An engine has accepted the generation; one in the background may still be queued."""
        status = "queued" if self._facts.background else "in_progress"
        self._set(status, created_s=created_s)
        return [self._of_response("response.created"), self._of_response(f"response.{status}")]

    def working(self) -> list[Event]:
        """The prefill has begun."""
        if self._progress.status == "in_progress":
            return []
        self._set("in_progress")
        return [self._of_response("response.in_progress")]

    def text(self, text: str, logprobs: Sequence[JsonObject] = ()) -> list[Event]:
        """More text; an empty one has no event of its own.

        logprobs: of all tokens since the text before, also of those that are no text.
        """
        events = self.working()
        if logprobs:
            self._logprobs += logprobs
        if not text:
            return events
        message = self._message
        if message is None:
            if isinstance(self._current, Reasoning):
                events += self._close_current()
            own_id = item_id("msg", self._facts.id, self._count(Message))
            message = self._message = Message(own_id, len(self._items))
            events += self._opened(message)
        if not self._logprobs:
            events.append(self._delta(message, message.delta_head, text))
            return events
        found, self._logprobs = self._logprobs, []
        message.logprobs += found
        events.append(self._delta(message, message.delta_head_with(found), text))
        return events

    def reasoning(self, text: str) -> list[Event]:
        """More reasoning."""
        events = self.working()
        if text:
            item = self._current
            if not isinstance(item, Reasoning):
                events += self._close_current()
                own_id = item_id("rs", self._facts.id, self._count(Reasoning))
                item = Reasoning(own_id, len(self._items))
                self._current = item
                events += self._opened(item)
            events.append(self._delta(item, item.delta_head, text))
        return events

    def call(self, index: int, *, call_id: str, name: str, arguments: str) -> list[Event]:
        """The next piece of the call with this index; the first has its id and name."""
        events = self.working()
        item = self._current
        if not isinstance(item, Call) or index >= self._calls:
            events += self._close_current()
            self._calls = index + 1
            own_id = item_id("fc", self._facts.id, self._count(Call))
            item = self._current = Call(own_id, len(self._items), call_id, name)
            events += self._opened(item)
        if arguments:
            events.append(self._delta(item, item.delta_head, arguments))
        return events

    def finished(self, ending: Ending) -> list[Event]:
        """The generation ended without an error."""
        complete = ending.status == "completed"
        events = self.working() + self._close_all("completed" if complete else "incomplete")
        self._set(ending.status, usage=ending.usage, incomplete_reason=ending.incomplete_reason)
        # The protocol has no event for a cancelled response: its status tells it.
        events.append(self._of_response(f"response.{'completed' if complete else 'incomplete'}"))
        return events

    def failed(self, error: MeshError) -> list[Event]:
        """The generation failed."""
        events = [] if self._next else self.started(0.0)
        events += self._close_all("incomplete")
        self._set("failed", error=error_object(error))
        events.append(self._of_response("response.failed"))
        return events

    def broken(self, error: MeshError, after: int = -1) -> Event:
        """The stream breaks off here, while the generation may go on.

        It has the number of the last event that the client has, so that it resumes after that;
        after: the number of the last one that it had before.
        """
        number = max(after, self.last_sequence, 0)
        named = {"type": "error", "sequence_number": number}
        told = {"code": error.reason.lower(), "message": error.message, "param": None}
        return Event(number, "error", encode({**named, **told}))

    def _count(self, cls: type[Item]) -> int:
        return sum(type(item) is cls for item in self._items)

    def _opened(self, item: Item) -> list[Event]:
        self._open.append(len(self._items))
        self._items.append(item)
        self._statuses.append("in_progress")
        return self._numbered(item.opened())

    def _delta(self, item: Item, head: str, text: str) -> Event:
        item.parts.append(text)
        number = self._next
        self._next = number + 1
        # The one event per token: only its text is encoded.
        return Event(number, item.delta_name, f'{head}{number},"delta":{encode(text)}}}')

    def _close_current(self) -> list[Event]:
        """Ends reasoning or a call; a message may have more text after a call."""
        item, self._current = self._current, None
        return [] if item is None else self._close(self._items.index(item), "completed")

    def _close_all(self, status: str) -> list[Event]:
        if self._message is not None:
            self._message.logprobs += self._logprobs
        return [event for number in list(self._open) for event in self._close(number, status)]

    def _close(self, number: int, status: str) -> list[Event]:
        self._open.remove(number)
        self._statuses[number] = status
        return self._numbered(self._items[number].closed(status))

    def _set(
        self,
        status: str,
        *,
        created_s: float | None = None,
        usage: JsonObject | None = None,
        error: JsonObject | None = None,
        incomplete_reason: str | None = None,
    ) -> None:
        self._progress = Progress(
            status=status,
            created_s=self._progress.created_s if created_s is None else created_s,
            usage=usage,
            error=error,
            incomplete_reason=incomplete_reason,
        )

    def _of_response(self, name: str) -> Event:
        (event,) = self._numbered([(name, {"response": self.response})])
        return event

    def _numbered(self, bodies: list[Body]) -> list[Event]:
        events: list[Event] = []
        for name, body in bodies:
            data = encode({"type": name, "sequence_number": self._next, **body})
            events.append(Event(self._next, name, data))
            self._next += 1
        return events
