"""Messages, their blocks and the events of their streams, as JSON. Pure.

A delta is made for every few tokens of every stream: it is formatted around constant texts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_DELTA = "content_block_delta"
SIGNATURE = "mlxmesh"
"""Of every block of thinking: some clients drop blocks without one. It is never read."""

Event = tuple[str, str]
"""Its name and its data."""


@dataclass(frozen=True, slots=True)
class InputTokens:
    """The tokens of a prompt."""

    all_tokens: int
    cached_tokens: int

    def as_json(self) -> dict[str, object]:
        """Their sum is the number of all tokens."""
        return {
            "input_tokens": self.all_tokens - self.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.cached_tokens,
        }


@dataclass(frozen=True, slots=True)
class OutputUsage:
    """The tokens of a prompt and of what was generated."""

    prompt: InputTokens
    output_tokens: int = 0
    thinking_tokens: int = 0

    def as_json(self) -> dict[str, object]:
        return {
            **self.prompt.as_json(),
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"thinking_tokens": self.thinking_tokens},
        }


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a message ended."""

    reason: str
    sequence: str | None = None

    def as_json(self) -> dict[str, object]:
        return {"stop_reason": self.reason, "stop_sequence": self.sequence}


_RUNNING: dict[str, object] = {"stop_reason": None, "stop_sequence": None}


def whole_message(
    request_id: str,
    model: str,
    content: list[dict[str, object]],
    stop: Stop,
    usage: OutputUsage,
) -> dict[str, object]:
    """A response that is not streamed."""
    return _message(request_id, model, content, stop.as_json(), usage.as_json())


def first_event(request_id: str, model: str, tokens: InputTokens) -> Event:
    """The event before all blocks."""
    usage = OutputUsage(tokens).as_json()
    return _event("message_start", message=_message(request_id, model, [], _RUNNING, usage))


def block_start(index: int, block: dict[str, object]) -> Event:
    """A block begins."""
    return _event("content_block_start", index=index, content_block=block)


def text_event(index: int, text: str) -> Event:
    """More text."""
    return _delta(index, "text_delta", "text", text)


def thinking_event(index: int, text: str) -> Event:
    """More thinking."""
    return _delta(index, "thinking_delta", "thinking", text)


def signature_event(index: int, signature: str) -> Event:
    """The signature of a block of thinking."""
    return _delta(index, "signature_delta", "signature", signature)


def input_event(index: int, fragment: str) -> Event:
    """More of the JSON of a tool's input."""
    return _delta(index, "input_json_delta", "partial_json", fragment)


def block_stop(index: int) -> Event:
    """A block ends."""
    return _event("content_block_stop", index=index)


def last_events(stop: Stop, usage: OutputUsage) -> list[Event]:
    """The events after all blocks; the counts replace those of the first event."""
    return [
        _event("message_delta", delta=stop.as_json(), usage=usage.as_json()),
        _event("message_stop"),
    ]


def text_block(text: str) -> dict[str, object]:
    return {"type": "text", "text": text, "citations": None}


def thinking_block(thinking: str, signature: str) -> dict[str, object]:
    return {"type": "thinking", "thinking": thinking, "signature": signature}


def tool_use_block(call_id: str, name: str, arguments: dict[str, object]) -> dict[str, object]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def _message(
    request_id: str,
    model: str,
    content: list[dict[str, object]],
    stop: dict[str, object],
    usage: dict[str, object],
) -> dict[str, object]:
    return {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        **stop,
        "usage": usage,
    }


def _delta(index: int, kind: str, field: str, value: str) -> Event:
    delta = f'{{"type": "{kind}", "{field}": {quoted(value)}}}'
    return _DELTA, f'{{"type": "{_DELTA}", "index": {index}, "delta": {delta}}}'


def _event(name: str, **fields: object) -> Event:
    return name, json.dumps({"type": name, **fields})
