"""The responses and stream chunks of generations, as JSON. Pure.

A chunk is made for every few tokens of every stream, so it is formatted around constant parts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Protocol

DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    def as_json(self) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which generation it is; the same in all of its chunks."""

    request_id: str
    created: int
    """In seconds since 1970."""
    model: str
    """As requested."""
    version: str
    """The name@version that generates."""


Choice = dict[str, Any]


class Shape(Protocol):
    """How a route shows generations."""

    id_prefix: str
    kind: str
    """The field `object` of a response."""
    chunk_kind: str
    """The field `object` of a chunk."""

    def choice(self, text: str) -> Choice:
        """The choice of a response."""
        ...

    def first(self) -> Sequence[Choice]:
        """The choices of the chunks before the text."""
        ...

    def delta(self, text: str) -> Choice:
        """The choice of a chunk of text."""
        ...

    def end(self) -> Choice:
        """The choice of the chunk that has the finish reason."""
        ...


_RUNNING: Choice = {"index": 0, "logprobs": None, "finish_reason": None}


class ChatShape:
    """Satisfies Shape."""

    id_prefix = "chatcmpl-"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def choice(self, text: str) -> Choice:
        return {**_RUNNING, "message": {"role": "assistant", "content": text, "refusal": None}}

    def first(self) -> Sequence[Choice]:
        return [{**_RUNNING, "delta": {"role": "assistant", "content": ""}}]

    def delta(self, text: str) -> Choice:
        return {**_RUNNING, "delta": {"content": text}}

    def end(self) -> Choice:
        return {**_RUNNING, "delta": {}}


class TextShape:
    """Satisfies Shape."""

    id_prefix = "cmpl-"
    kind = chunk_kind = "text_completion"

    def choice(self, text: str) -> Choice:
        return {**_RUNNING, "text": text}

    def first(self) -> Sequence[Choice]:
        return []

    def delta(self, text: str) -> Choice:
        return self.choice(text)

    def end(self) -> Choice:
        return self.choice("")


class Answer:
    """One generation in a route's shape."""

    def __init__(self, shape: Shape, origin: Origin, *, include_usage: bool = False) -> None:
        """include_usage: in the last chunk of a stream."""
        self._shape = shape
        self._include_usage = include_usage
        self._fields: dict[str, Any] = {
            "id": shape.id_prefix + origin.request_id,
            "object": shape.chunk_kind,
            "created": origin.created,
            "model": origin.model,
            "system_fingerprint": origin.version,
        }
        # The text of a delta is last in its chunk, whatever the client's model name contains.
        self._before, _, self._after = self._chunk([shape.delta("TEXT")]).rpartition('"TEXT"')

    def whole(self, text: str, finish_reason: str, usage: Usage) -> dict[str, Any]:
        """A response that is not streamed."""
        choice = {**self._shape.choice(text), "finish_reason": finish_reason}
        fields = {**self._fields, "object": self._shape.kind, "choices": [choice]}
        return {**fields, "usage": usage.as_json()}

    def first(self) -> Sequence[str]:
        """The chunks before the text."""
        return [self._chunk([choice]) for choice in self._shape.first()]

    def delta(self, text: str) -> str:
        """A chunk of text."""
        return f"{self._before}{quoted(text)}{self._after}"

    def last(self, finish_reason: str, usage: Usage) -> Sequence[str]:
        """The events after the text."""
        end = self._chunk([{**self._shape.end(), "finish_reason": finish_reason}])
        if not self._include_usage:
            return end, DONE
        return end, self._chunk([], usage.as_json()), DONE

    def _chunk(self, choices: list[Choice], usage: dict[str, object] | None = None) -> str:
        # Where the client asked for usage, every other chunk has it too, as null.
        counts = {"usage": usage} if self._include_usage else {}
        return json.dumps({**self._fields, **counts, "choices": choices}, separators=(",", ":"))
