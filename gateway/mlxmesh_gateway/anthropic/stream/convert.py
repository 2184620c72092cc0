"""The messages of a generation as the events of a stream. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.anthropic.events import (
    SIGNATURE,
    Event,
    InputTokens,
    OutputUsage,
    Stop,
    block_start,
    block_stop,
    first_event,
    input_event,
    last_events,
    signature_event,
    text_block,
    text_event,
    thinking_block,
    thinking_event,
    tool_use_block,
)
from mlxmesh_shared.errors import GenerationCancelled

Kind = Literal["text", "thinking", "tool_use"]
_KINDS: dict[str, Kind] = {"t": "text", "r": "thinking", "c": "tool_use"}
_LETTERS = {kind: letter for letter, kind in _KINDS.items()}
_ENCODED = re.compile(r"([0-9]{1,9})([trc])")


@dataclass(frozen=True, slots=True)
class OpenBlock:
    """The block that a stream is in."""

    index: int
    kind: Kind

    def encode(self) -> str:
        """As a part of an event's id."""
        return f"{self.index}{_LETTERS[self.kind]}"

    @classmethod
    def decode(cls, text: str) -> OpenBlock | None:
        """The block that `encode` gave this text for; None for any other text."""
        match = _ENCODED.fullmatch(text)
        return cls(int(match[1]), _KINDS[match[2]]) if match else None


class StreamEvents:
    """Makes the events of one stream.

    The events of a message depend on that message and on the block that is open before it, so that
    a stream can be resumed with these two.
    """

    def __init__(self, open_block: OpenBlock | None = None, *, show_thinking: bool = True) -> None:
        """open_block: the one before the next message; None before the first block."""
        self.open_block = open_block
        self._show_thinking = show_thinking

    def of(self, message: pb.GenerateResponse) -> list[Event]:
        """The events of the next message. Raises: GenerationCancelled."""
        match message.WhichOneof("event"):
            case "delta":
                return [*self._delta(message.delta)]
            case "started":
                started = message.started
                tokens = InputTokens(started.prompt_tokens, started.cached_tokens)
                return [first_event(started.request_id, version_of(started), tokens)]
            case "finished":
                return [*self._finished(message.finished)]
            case _:
                return []

    def _delta(self, delta: pb.Delta) -> Iterator[Event]:
        calls = list(delta.tool_calls)
        # What continues a call comes before what would end its block.
        while calls and not calls[0].name:
            yield from self._arguments(calls.pop(0))
        if delta.reasoning_text:
            yield from self._thinking(delta.reasoning_text)
        if delta.text:
            yield from self._text(delta.text)
        yield from self._calls(calls)

    def _thinking(self, text: str) -> Iterator[Event]:
        if not self._is_in("thinking"):
            yield from self._begin("thinking", thinking_block("", ""))
        if self._show_thinking:
            yield thinking_event(self._index, text)

    def _text(self, text: str) -> Iterator[Event]:
        if not self._is_in("text"):
            yield from self._begin("text", text_block(""))
        yield text_event(self._index, text)

    def _calls(self, calls: Iterable[pb.ToolCall]) -> Iterator[Event]:
        for call in calls:
            if call.name:
                yield from self._begin("tool_use", tool_use_block(call.id, call.name, {}))
            yield from self._arguments(call)

    def _arguments(self, call: pb.ToolCall) -> Iterator[Event]:
        if call.arguments:
            yield input_event(self._index, call.arguments)

    def _finished(self, finished: pb.Finished) -> Iterator[Event]:
        stop = stop_of(finished)
        if self.open_block is None:
            yield from self._begin("text", text_block(""))
        yield from self._end()
        yield from last_events(stop, output_usage(finished))

    @property
    def _index(self) -> int:
        return self.open_block.index if self.open_block is not None else 0

    def _is_in(self, kind: Kind) -> bool:
        return self.open_block is not None and self.open_block.kind == kind

    def _begin(self, kind: Kind, block: dict[str, object]) -> Iterator[Event]:
        """Ends the block that is open, and begins another."""
        yield from self._end()
        index = 0 if self.open_block is None else self.open_block.index + 1
        self.open_block = OpenBlock(index, kind)
        yield block_start(index, block)

    def _end(self) -> Iterator[Event]:
        if self.open_block is None:
            return
        if self.open_block.kind == "thinking":
            yield signature_event(self._index, SIGNATURE)
        yield block_stop(self._index)


def output_usage(finished: pb.Finished) -> OutputUsage:
    """The counts at the end of a generation; those of all steps of an ensemble."""
    usage = finished.total_usage if finished.HasField("total_usage") else finished.usage
    tokens = InputTokens(usage.prompt_tokens, usage.cached_tokens)
    return OutputUsage(tokens, usage.completion_tokens, usage.reasoning_tokens)


def version_of(started: pb.Started) -> str:
    """The version that generated; a model reference too."""
    return f"{started.model}@{started.model_version}"


def stop_of(finished: pb.Finished) -> Stop:
    """Raises: GenerationCancelled."""
    reason = finished.finish_reason
    if reason == pb.FINISH_REASON_CANCELLED:
        raise GenerationCancelled("the generation was cancelled by another call")
    if reason == pb.FINISH_REASON_LENGTH:
        return Stop("max_tokens")
    if reason == pb.FINISH_REASON_TOOL_CALLS:
        return Stop("tool_use")
    if finished.WhichOneof("stopped_by") == "stop_text":
        return Stop("stop_sequence", finished.stop_text)
    return Stop("end_turn")
