"""The output items of a streamed response, each of which makes its own events. Pure.

Source: `openai.types.responses`, the classes Response*Item and Response*Event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from mlxmesh_gateway.openai.responses.objects import (
    JsonObject,
    encode,
    function_call,
    output_message,
    reasoning_item,
    text_part,
)

Body = tuple[str, JsonObject]
"""The name of an event, and what it has beside its number."""


class Item(Protocol):
    """An output item."""

    delta_name: str
    delta_head: str
    """A delta's JSON up to its sequence number."""
    parts: list[str]
    """What its deltas have had."""

    def opened(self) -> list[Body]:
        """The events of its beginning."""
        ...

    def closed(self, status: str) -> list[Body]:
        """The events of its end."""
        ...

    def as_output(self, status: str) -> JsonObject:
        """The item so far."""
        ...


class OutputItem:
    """What all items have."""

    def __init__(self, item_id: str, output_index: int) -> None:
        self.parts: list[str] = []
        self.id = item_id
        self._place: JsonObject = {"item_id": item_id, "output_index": output_index}
        self._part: JsonObject = {**self._place, "content_index": 0}

    @property
    def _whole(self) -> str:
        return "".join(self.parts)

    def _event(self, name: str, item: JsonObject) -> Body:
        body = {"output_index": self._place["output_index"], "item": item}
        return f"response.output_item.{name}", body


def _head(name: str, fields: JsonObject) -> str:
    return f'{encode({"type": name, **fields})[:-1]},"sequence_number":'


class Message(OutputItem):
    """Satisfies Item: a message with one text."""

    delta_name = "response.output_text.delta"

    def __init__(self, item_id: str, output_index: int) -> None:
        super().__init__(item_id, output_index)
        self.logprobs: list[JsonObject] = []
        self.delta_head = _head(self.delta_name, {**self._part, "logprobs": []})

    def delta_head_with(self, logprobs: Sequence[JsonObject]) -> str:
        """As delta_head, with log-probabilities."""
        return _head(self.delta_name, {**self._part, "logprobs": list(logprobs)})

    def opened(self) -> list[Body]:
        return [
            self._event("added", output_message(self.id, "in_progress", [])),
            ("response.content_part.added", {**self._part, "part": text_part("")}),
        ]

    def closed(self, status: str) -> list[Body]:
        done = {**self._part, "text": self._whole, "logprobs": self.logprobs}
        return [
            ("response.output_text.done", done),
            ("response.content_part.done", {**self._part, "part": self._text_part()}),
            self._event("done", self.as_output(status)),
        ]

    def as_output(self, status: str) -> JsonObject:
        return output_message(self.id, status, [self._text_part()])

    def _text_part(self) -> JsonObject:
        return text_part(self._whole, self.logprobs)


class Reasoning(OutputItem):
    """Satisfies Item: the reasoning before a message or a call."""

    delta_name = "response.reasoning_text.delta"

    def __init__(self, item_id: str, output_index: int) -> None:
        super().__init__(item_id, output_index)
        self.delta_head = _head(self.delta_name, self._part)

    def opened(self) -> list[Body]:
        empty = {"type": "reasoning_text", "text": ""}
        return [
            self._event("added", reasoning_item(self.id, "in_progress", None)),
            ("response.content_part.added", {**self._part, "part": empty}),
        ]

    def closed(self, status: str) -> list[Body]:
        part = {"type": "reasoning_text", "text": self._whole}
        return [
            ("response.reasoning_text.done", {**self._part, "text": self._whole}),
            ("response.content_part.done", {**self._part, "part": part}),
            self._event("done", self.as_output(status)),
        ]

    def as_output(self, status: str) -> JsonObject:
        return reasoning_item(self.id, status, self._whole)


class Call(OutputItem):
    """Satisfies Item: a call of a function."""

    delta_name = "response.function_call_arguments.delta"

    def __init__(self, item_id: str, output_index: int, call_id: str, name: str) -> None:
        super().__init__(item_id, output_index)
        self._call_id = call_id
        self._name = name
        self.delta_head = _head(self.delta_name, self._place)

    def opened(self) -> list[Body]:
        return [self._event("added", self._item("in_progress", ""))]

    def closed(self, status: str) -> list[Body]:
        done: dict[str, Any] = {**self._place, "name": self._name, "arguments": self._whole}
        return [
            ("response.function_call_arguments.done", done),
            self._event("done", self.as_output(status)),
        ]

    def as_output(self, status: str) -> JsonObject:
        return self._item(status, self._whole)

    def _item(self, status: str, arguments: str) -> JsonObject:
        return function_call(
            self.id, status, call_id=self._call_id, name=self._name, arguments=arguments
        )
