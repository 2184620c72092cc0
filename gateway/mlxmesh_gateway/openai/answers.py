"""The responses and stream chunks of generations, as JSON. Pure.

A chunk is made for every few tokens of every stream, so one of text alone is formatted around
constant parts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.shapes import Choice, Shape
from mlxmesh_gateway.openai.usage import Usage, finish_reason, total, usage

DONE = "[DONE]"


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
    service_tier: str = ""
    """Empty if the request names none."""

    def fields(self, id_prefix: str, kind: str) -> Mapping[str, object]:
        """What responses and chunks begin with."""
        fields: dict[str, object] = {
            "id": id_prefix + self.request_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.version,
        }
        return fields | ({"service_tier": self.service_tier} if self.service_tier else {})


def whole(
    origin: Origin, parts: Sequence[tuple[Shape, pb.CompleteResponse]]
) -> Mapping[str, object]:
    """A response that is not streamed, of one generation or of one for each prompt.

    Raises: GenerationCancelled.
    """
    shape, _ = parts[0]
    choices = [one for shape, complete in parts for one in _choices(shape, complete)]
    counts = total(usage(complete.finished) for _, complete in parts)
    fields = origin.fields(shape.id_prefix, shape.kind)
    return {**fields, "choices": choices, "usage": counts.as_json()}


def _choices(shape: Shape, complete: pb.CompleteResponse) -> list[Choice]:
    return [
        {
            **shape.choice(output, complete.prompt_logprobs),
            "finish_reason": finish_reason(output.finished),
        }
        for output in _outputs(complete)
    ]


def _outputs(complete: pb.CompleteResponse) -> Sequence[pb.Output]:
    first = pb.Output(
        text=complete.text,
        finished=complete.finished,
        reasoning_text=complete.reasoning_text,
        tool_calls=complete.tool_calls,
        logprobs=complete.logprobs,
    )
    return [first, *complete.other_outputs]


class Chunks:
    """The chunks of one stream, in a route's shape."""

    def __init__(self, shape: Shape, origin: Origin, *, include_usage: bool = False) -> None:
        """include_usage: in the last chunk."""
        self._shape = shape
        self._include_usage = include_usage
        self._fields = origin.fields(shape.id_prefix, shape.chunk_kind)
        self._around: dict[int, tuple[str, str]] = {}

    def first(self) -> Sequence[str]:
        """The chunks before any output."""
        return [self._chunk([choice]) for choice in self._shape.first()]

    def prompt(self, found: pb.PromptLogprobs) -> Sequence[str]:
        """The chunks of tokens of the prompt."""
        return [self._chunk([choice]) for choice in self._shape.prompt(found.tokens)]

    def delta(self, delta: pb.Delta) -> str | None:
        """The chunk of new output; None if there is nothing to tell."""
        if self._shape.plain and not (delta.reasoning_text or delta.tool_calls):
            return self.text(delta.index, delta.text) if delta.text else None
        choice = self._shape.delta(delta)
        return None if choice is None else self._chunk([choice])

    def text(self, index: int, text: str) -> str:
        """A chunk of text alone."""
        around = self._around.get(index)
        if around is None:
            # The text of a delta is last in its chunk, whatever the client's model name contains.
            chunk = self._chunk([self._shape.text(index, "TEXT")])
            before, _, after = chunk.rpartition('"TEXT"')
            around = self._around[index] = before, after
        return f"{around[0]}{quoted(text)}{around[1]}"

    def end(self, finished: pb.Finished) -> str:
        """The chunk of the end of an output. Raises: GenerationCancelled."""
        reason = finish_reason(finished)
        return self._chunk([{**self._shape.end(finished.index), "finish_reason": reason}])

    def last(self, counts: Usage) -> Sequence[str]:
        """The events after all outputs."""
        if not self._include_usage:
            return (DONE,)
        return self._chunk([], counts.as_json()), DONE

    def _chunk(self, choices: list[Choice], counts: dict[str, object] | None = None) -> str:
        # Where the client asked for usage, every other chunk has it too, as null.
        shown: dict[str, Any] = {"usage": counts} if self._include_usage else {}
        return json.dumps({**self._fields, **shown, "choices": choices}, separators=(",", ":"))
