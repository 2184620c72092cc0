"""How routes show the outputs of generations, as JSON objects. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.logprobs import TextLogprobs, Tokens, chat_logprobs

Choice = dict[str, Any]


class Shape(Protocol):
    """How a route shows the outputs of one generation."""

    id_prefix: str
    kind: str
    """The field `object` of a response."""
    chunk_kind: str
    """The field `object` of a chunk."""
    plain: bool
    """Whether a delta that has nothing but text makes nothing but `text`."""
    replays: bool
    """Whether a chunk depends on those before it."""

    def choice(self, output: pb.Output, prompt: Tokens) -> Choice:
        """The choice of a response, without its finish reason."""
        ...

    def first(self) -> Sequence[Choice]:
        """The choices of the chunks before any output."""
        ...

    def prompt(self, tokens: Tokens) -> Sequence[Choice]:
        """The choices of the chunks of tokens of the prompt."""
        ...

    def text(self, index: int, text: str) -> Choice:
        """The choice of a chunk of text alone."""
        ...

    def delta(self, delta: pb.Delta) -> Choice | None:
        """The choice of the chunk of any delta; None if there is nothing to tell."""
        ...

    def end(self, index: int) -> Choice:
        """The choice of the chunk that has the finish reason."""
        ...


def _running(index: int) -> Choice:
    return {"index": index, "logprobs": None, "finish_reason": None}


class ChatShape:
    """Satisfies Shape."""

    id_prefix = "chatcmpl-"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    replays = False

    def __init__(self, *, outputs: int = 1, logprobs: bool = False) -> None:
        self.plain = not logprobs
        self._outputs = outputs
        self._logprobs = logprobs

    def choice(self, output: pb.Output, prompt: Tokens = ()) -> Choice:
        calls = [_whole_call(one) for one in output.tool_calls]
        message: Choice = {
            "role": "assistant",
            "content": None if calls and not output.text else output.text,
            "refusal": None,
        }
        if output.reasoning_text:
            message["reasoning_content"] = output.reasoning_text
        if calls:
            message["tool_calls"] = calls
        return {**self._with_logprobs(output.index, output.logprobs), "message": message}

    def first(self) -> Sequence[Choice]:
        delta = {"role": "assistant", "content": ""}
        return [{**_running(index), "delta": delta} for index in range(self._outputs)]

    def prompt(self, tokens: Tokens) -> Sequence[Choice]:
        return ()

    def text(self, index: int, text: str) -> Choice:
        return {**_running(index), "delta": {"content": text}}

    def delta(self, delta: pb.Delta) -> Choice | None:
        made: Choice = {}
        if delta.reasoning_text:
            made["reasoning_content"] = delta.reasoning_text
        if delta.text:
            made["content"] = delta.text
        if delta.tool_calls:
            made["tool_calls"] = _call_pieces(delta.tool_calls)
        if not made and not (self._logprobs and delta.logprobs):
            return None
        return {**self._with_logprobs(delta.index, delta.logprobs), "delta": made}

    def end(self, index: int) -> Choice:
        return {**_running(index), "delta": {}}

    def _with_logprobs(self, index: int, tokens: Tokens) -> Choice:
        choice = _running(index)
        if self._logprobs:
            choice["logprobs"] = {"content": chat_logprobs(tokens), "refusal": None}
        return choice


def _whole_call(call: pb.ToolCall) -> Choice:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _call_pieces(calls: Sequence[pb.ToolCall]) -> list[Choice]:
    """One for each call: clients join the pieces of different chunks, not those of one."""
    pieces: dict[int, Choice] = {}
    for call in calls:
        piece = pieces.setdefault(call.index, {"index": call.index, "function": {"arguments": ""}})
        if call.name:
            piece["id"], piece["type"] = call.id, "function"
            piece["function"] = {"name": call.name, "arguments": piece["function"]["arguments"]}
        piece["function"]["arguments"] += call.arguments
    return list(pieces.values())


class TextShape:
    """Satisfies Shape."""

    id_prefix = "cmpl-"
    kind = chunk_kind = "text_completion"

    def __init__(
        self,
        *,
        outputs: int = 1,
        first_index: int = 0,
        logprobs: bool = False,
        echo: bool = False,
        prompt: str | None = None,
    ) -> None:
        """first_index: of the choices, which are several where there are several prompts.

        prompt: its text, where it is known before the generation.
        """
        self.plain = not logprobs
        self.replays = logprobs or echo
        self._first_index = first_index
        self._logprobs = logprobs
        self._echo = echo
        self._prompt = prompt
        self._outputs = outputs
        self._so_far: defaultdict[int, TextLogprobs] = defaultdict(TextLogprobs)

    def choice(self, output: pb.Output, prompt: Tokens = ()) -> Choice:
        text = output.text
        choice = self._choice(output.index)
        if self._echo:
            shown, _ = TextLogprobs().add(prompt)
            text = (shown if self._prompt is None else self._prompt) + text
        if self._logprobs:
            tokens = [*(prompt if self._echo else ()), *output.logprobs]
            _, choice["logprobs"] = TextLogprobs().add(tokens)
        return {**choice, "text": text}

    def first(self) -> Sequence[Choice]:
        if not self._echo or not self._prompt:
            return []
        return [self.text(index, self._prompt) for index in range(self._outputs)]

    def prompt(self, tokens: Tokens) -> Sequence[Choice]:
        if self._prompt is not None and not self._logprobs:
            return ()
        return [self._part(index, tokens) for index in range(self._outputs)]

    def text(self, index: int, text: str) -> Choice:
        return {**self._choice(index), "text": text}

    def delta(self, delta: pb.Delta) -> Choice | None:
        if not delta.text and not (self._logprobs and delta.logprobs):
            return None
        choice = self.text(delta.index, delta.text)
        if self._logprobs:
            _, choice["logprobs"] = self._so_far[delta.index].add(delta.logprobs)
        return choice

    def end(self, index: int) -> Choice:
        return self.text(index, "")

    def _choice(self, index: int) -> Choice:
        return _running(self._first_index + index)

    def _part(self, index: int, tokens: Tokens) -> Choice:
        shown, logprobs = self._so_far[index].add(tokens)
        choice = self.text(index, shown if self._prompt is None else "")
        if self._logprobs:
            choice["logprobs"] = logprobs
        return choice
