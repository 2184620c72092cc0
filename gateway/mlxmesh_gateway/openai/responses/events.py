"""The events of a streamed response: a pure state machine.

The same calls give the same events with the same sequence numbers, so a stream that is replayed
from its beginning equals the first one, and any end of it resumes a stream that broke off.

Source: `openai.types.responses`, the classes Response*Event.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

from mlxmesh_gateway.openai.responses.objects import (
    JsonObject,
    Progress,
    ResponseFacts,
    error_object,
    message_id,
    output_message,
    response_object,
    text_part,
)
from mlxmesh_shared.errors import MeshError

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


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
        self._item: _Message | None = None
        self._done: list[JsonObject] = []

    @property
    def response(self) -> JsonObject:
        """The response as of the last event, with the text so far."""
        unfinished = [] if self._item is None else [self._item.as_output("in_progress")]
        return response_object(self._facts, self._progress, [*self._done, *unfinished])

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

    def text(self, text: str) -> list[Event]:
        """More text; an empty one has no event of its own."""
        events = self.working()
        if not text:
            return events
        item = self._item
        if item is None:
            item = self._item = _Message(message_id(self._facts.id), len(self._done))
            events += self._numbered(item.opened())
        item.texts.append(text)
        number = self._next
        self._next = number + 1
        # The one event per token: only its text is encoded.
        data = f'{item.delta_head}{number},"delta":{_encode(text)}}}'
        events.append(Event(number, "response.output_text.delta", data))
        return events

    def finished(self, ending: Ending) -> list[Event]:
        """The generation ended without an error."""
        complete = ending.status == "completed"
        events = self.working() + self._close_item("completed" if complete else "incomplete")
        self._set(ending.status, usage=ending.usage, incomplete_reason=ending.incomplete_reason)
        # The protocol has no event for a cancelled response: its status tells it.
        events.append(self._of_response(f"response.{'completed' if complete else 'incomplete'}"))
        return events

    def failed(self, error: MeshError) -> list[Event]:
        """The generation failed."""
        events = [] if self._next else self.started(0.0)
        events += self._close_item("incomplete")
        self._set("failed", error=error_object(error))
        events.append(self._of_response("response.failed"))
        return events

    def broken(self, error: MeshError) -> Event:
        """The stream breaks off here, while the generation may go on."""
        body = {"code": error.reason.lower(), "message": error.message, "param": None}
        (event,) = self._numbered([("error", body)])
        return event

    def _close_item(self, status: str) -> list[Event]:
        if self._item is None:
            return []
        item, self._item = self._item, None
        self._done.append(item.as_output(status))
        return self._numbered(item.closed(status))

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

    def _numbered(self, bodies: list[tuple[str, JsonObject]]) -> list[Event]:
        events: list[Event] = []
        for name, body in bodies:
            data = _encode({"type": name, "sequence_number": self._next, **body})
            events.append(Event(self._next, name, data))
            self._next += 1
        return events


class _Message:
    """An output message with one text; further kinds of items need the same methods."""

    def __init__(self, item_id: str, output_index: int) -> None:
        self.texts: list[str] = []
        self._id = item_id
        self._place: JsonObject = {"item_id": item_id, "output_index": output_index}
        head: JsonObject = {"type": "response.output_text.delta", **self._part, "logprobs": []}
        self.delta_head = f'{_encode(head)[:-1]},"sequence_number":'

    @property
    def _part(self) -> JsonObject:
        return {**self._place, "content_index": 0}

    def opened(self) -> list[tuple[str, JsonObject]]:
        item = output_message(self._id, "in_progress", [])
        index = self._place["output_index"]
        return [
            ("response.output_item.added", {"output_index": index, "item": item}),
            ("response.content_part.added", {**self._part, "part": text_part("")}),
        ]

    def closed(self, status: str) -> list[tuple[str, JsonObject]]:
        text, index = "".join(self.texts), self._place["output_index"]
        item = self.as_output(status)
        return [
            ("response.output_text.done", {**self._part, "text": text, "logprobs": []}),
            ("response.content_part.done", {**self._part, "part": text_part(text)}),
            ("response.output_item.done", {"output_index": index, "item": item}),
        ]

    def as_output(self, status: str) -> JsonObject:
        return output_message(self._id, status, [text_part("".join(self.texts))])
