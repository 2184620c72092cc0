"""Makes the whole response of the chunks of a stream. Pure.

Source: OpenAI's API reference, "The chat completion chunk object".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

# These are whole in each chunk; other texts are pieces.
_WHOLE = frozenset({"id", "type", "role", "object", "index", "finish_reason", "stop_reason"})


class Accumulated:
    """A response that grows with each chunk."""

    def __init__(self) -> None:
        self.tokens = 0
        """Chunks with text so far, which are tokens but for servers that merge them."""
        self._fields: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def take(self, chunk: Mapping[str, Any]) -> None:
        """Takes a chunk."""
        for name, value in chunk.items():
            if name != "choices" and value is not None:
                self._fields[name] = value
        for choice in cast("list[dict[str, Any]]", chunk.get("choices") or []):
            index = int(choice.get("index", 0))
            whole = self._choices.setdefault(index, {"index": index})
            fields = dict(choice)
            delta = fields.pop("delta", None)
            self.tokens += bool(delta) or bool(fields.get("text"))
            _merge(whole, fields)
            if delta is not None:
                _merge(whole.setdefault("message", {}), delta)

    def response(self) -> dict[str, Any]:
        """The response so far."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        kind = str(self._fields.get("object", "")).removesuffix(".chunk")
        named = {"object": kind} if kind else {}
        return {**self._fields, **named, "choices": choices}


def _merge(whole: dict[str, Any], piece: Mapping[str, Any]) -> None:
    for name, value in piece.items():
        before = whole.get(name)
        if value is None:
            whole.setdefault(name, None)
        elif isinstance(value, dict) and isinstance(before, dict):
            _merge(cast("dict[str, Any]", before), cast("dict[str, Any]", value))
        elif isinstance(value, list):
            whole[name] = _merged_list(before or [], cast("list[Any]", value))
        elif isinstance(value, str) and isinstance(before, str) and name not in _WHOLE:
            whole[name] = before + value
        else:
            whole[name] = value


def _merged_list(before: list[Any], pieces: list[Any]) -> list[Any]:
    """Items with an index are pieces of those with the same index; others are added."""
    merged = list(before)
    for piece in pieces:
        if not isinstance(piece, dict):
            merged.append(piece)
            continue
        fields = cast("dict[str, Any]", piece)
        index = fields.get("index")
        same = [item for item in merged if index is not None and item.get("index") == index]
        if not same:
            same = [dict[str, Any]()]
            merged += same
        _merge(same[0], fields)
    return merged
