"""Messages and the events of their streams, as JSON. Pure.

The events of one message of a generation depend on that message alone, so that a resumed stream has
the same ones. An event is made for every few tokens of every stream: those are formatted around a
constant text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_DELTA = "content_block_delta"
_BEFORE_TEXT = (
    '{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": '
)

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
class Stop:
    """Why a message ended."""

    reason: str
    sequence: str | None = None

    def as_json(self) -> dict[str, object]:
        return {"stop_reason": self.reason, "stop_sequence": self.sequence}


_RUNNING: dict[str, object] = {"stop_reason": None, "stop_sequence": None}


def whole_message(
    request_id: str, model: str, text: str, stop: Stop, tokens: InputTokens, output_tokens: int
) -> dict[str, object]:
    """A response that is not streamed."""
    usage = {**tokens.as_json(), "output_tokens": output_tokens}
    return _message(request_id, model, [_text_block(text)], stop.as_json(), usage)


def first_events(request_id: str, model: str, tokens: InputTokens) -> list[Event]:
    """The events before the text."""
    usage = {**tokens.as_json(), "output_tokens": 0}
    return [
        _event("message_start", message=_message(request_id, model, [], _RUNNING, usage)),
        _event("content_block_start", index=0, content_block=_text_block("")),
    ]


def text_event(text: str) -> Event:
    """More of the text."""
    return _DELTA, f"{_BEFORE_TEXT}{quoted(text)}}}}}"


def last_events(stop: Stop, tokens: InputTokens, output_tokens: int) -> list[Event]:
    """The events after the text; the counts replace those of the first event."""
    usage = {**tokens.as_json(), "output_tokens": output_tokens}
    return [
        _event("content_block_stop", index=0),
        _event("message_delta", delta=stop.as_json(), usage=usage),
        _event("message_stop"),
    ]


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


def _text_block(text: str) -> dict[str, object]:
    return {"type": "text", "text": text, "citations": None}


def _event(name: str, **fields: object) -> Event:
    return name, json.dumps({"type": name, **fields})
