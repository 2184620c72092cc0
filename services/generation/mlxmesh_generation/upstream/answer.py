"""Reads the chunks of an upstream's answer. Pure.

Source: OpenAI's API reference, "Chat completion chunk object"; reasoning_content as in vLLM and
llama.cpp, reasoning as in OpenRouter.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from mlxmesh_generation.domain.request import CallPiece, Delta, FinishReason, TokenLogprob
from mlxmesh_shared.errors import UpstreamFiltered, UpstreamUnavailable

MAX_PIECE_CHARACTERS = 65_536
"""Of one delta, so that a message stays far below every receiver's limit."""
MAX_CALLS = 1024
_MAX_ID_LENGTH, _MAX_NAME_LENGTH = 128, 64

_REASONS = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}
_FILTERED = "content_filter"


@dataclass(frozen=True)
class Usage:
    """What the upstream counted."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(eq=False)
class OutputSoFar:
    """One output, as far as it has come."""

    pieces: int = 0
    """Pieces of output, which have a token each as a rule."""
    arguments: dict[int, str] = field(default_factory=dict[int, str])
    """Of its tool calls, by their number."""
    reason: FinishReason | None = None

    @property
    def calls_valid(self) -> bool | None:
        """Whether the arguments of every call are a JSON object; None without a call."""
        if not self.arguments:
            return None
        return all(map(_is_object, self.arguments.values()))


class AnswerReader:
    """Takes chunks and gives pieces of output."""

    def __init__(self, name: str, answer_id: str, outputs: int) -> None:
        """name: of the version, for messages. answer_id: for the ids of calls that have none."""
        self._name = name
        self._answer_id = answer_id
        self.outputs = [OutputSoFar() for _ in range(outputs)]
        self.usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether every output has ended."""
        return all(output.reason is not None for output in self.outputs)

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Delta | int]:
        """The pieces of a chunk, and the indices of outputs that end with it.

        Raises: UpstreamUnavailable for what is not of the protocol; UpstreamFiltered.
        """
        if isinstance(chunk.get("usage"), dict):
            self.usage = _usage(chunk["usage"])
        for choice in _objects(chunk.get("choices")):
            index = choice.get("index", 0)
            if type(index) is not int or not 0 <= index < len(self.outputs):
                raise self._unreadable("an output that nobody asked for")
            output = self.outputs[index]
            if output.reason is None:
                yield from self._pieces(index, output, choice)
                yield from self._end(index, output, choice.get("finish_reason"))

    def _pieces(
        self, index: int, output: OutputSoFar, choice: Mapping[str, Any]
    ) -> Iterator[Delta]:
        delta = _object(choice.get("delta") or choice.get("message"))
        text = _text(delta.get("content")) + _text(delta.get("refusal"))
        text += _text(choice.get("text"))
        reasoning = _text(delta.get("reasoning_content") or delta.get("reasoning"))
        calls = tuple(self._calls(index, output, delta.get("tool_calls")))
        logprobs = _logprobs(choice.get("logprobs"))
        if not (text or reasoning or calls or logprobs):
            return
        output.pieces += 1
        size = MAX_PIECE_CHARACTERS
        rest = max(0, (max(len(text), len(reasoning)) - 1) // size * size)
        for start in range(0, rest, size):
            yield Delta(text[start : start + size], (), index, reasoning[start : start + size])
        small = sum(len(call.arguments) for call in calls) <= size
        yield Delta(text[rest:], (), index, reasoning[rest:], calls if small else (), logprobs)
        for call in () if small else calls:
            first, *others = _sliced(call.arguments)
            yield Delta("", (), index, calls=(replace(call, arguments=first),))
            for more in others:
                yield Delta("", (), index, calls=(CallPiece(call.index, arguments=more),))

    def _calls(self, index: int, output: OutputSoFar, pieces: object) -> Iterator[CallPiece]:
        for place, piece in enumerate(_objects(pieces)):
            number = piece.get("index", place)
            # Each call begins after the one before it.
            if type(number) is not int or not 0 <= number <= min(
                len(output.arguments), MAX_CALLS - 1
            ):
                raise self._unreadable("a tool call out of order")
            function = _object(piece.get("function"))
            arguments = _text(function.get("arguments"))
            if number in output.arguments:
                output.arguments[number] += arguments
                yield CallPiece(number, arguments=arguments)
                continue
            output.arguments[number] = arguments
            call_id = _text(piece.get("id")) or f"call_{self._answer_id}_{index}_{number}"
            name = _text(function.get("name"))
            if not name:
                raise self._unreadable("a tool call without a name")
            yield CallPiece(number, call_id[:_MAX_ID_LENGTH], name[:_MAX_NAME_LENGTH], arguments)

    def _end(self, index: int, output: OutputSoFar, reason: object) -> Iterator[int]:
        if reason is None:
            return
        if reason == _FILTERED:
            raise UpstreamFiltered(
                f"the content filter of the upstream of {self._name} ended the answer"
            )
        known = _REASONS.get(str(reason), FinishReason.STOP)
        called = known is FinishReason.STOP and output.arguments
        output.reason = FinishReason.TOOL_CALLS if called else known
        yield index

    def _unreadable(self, what: str) -> UpstreamUnavailable:
        return UpstreamUnavailable(f"the answer of the upstream of {self._name} has {what}")


def _sliced(text: str) -> list[str]:
    size = MAX_PIECE_CHARACTERS
    return [text[start : start + size] for start in range(0, max(1, len(text)), size)]


def _usage(stated: Mapping[str, Any]) -> Usage:
    prompt = _object(stated.get("prompt_tokens_details"))
    completion = _object(stated.get("completion_tokens_details"))
    prompt_tokens = _count(stated.get("prompt_tokens"))
    completion_tokens = _count(stated.get("completion_tokens"))
    return Usage(
        prompt_tokens,
        completion_tokens,
        min(prompt_tokens, _count(prompt.get("cached_tokens"))),
        min(completion_tokens, _count(completion.get("reasoning_tokens"))),
    )


def _logprobs(stated: object) -> tuple[TokenLogprob, ...]:
    return tuple(map(_logprob, _objects(_object(stated).get("content"))))


def _logprob(stated: Mapping[str, Any]) -> TokenLogprob:
    """Its token has no id here."""
    top = tuple(_top(each) for each in _objects(stated.get("top_logprobs")))
    own = _top(stated)
    return TokenLogprob(0, own.logprob, own.text, top)


def _top(stated: Mapping[str, Any]) -> TokenLogprob:
    logprob, given = stated.get("logprob"), stated.get("bytes")
    text = _text(stated.get("token")).encode()
    if isinstance(given, list):
        numbers = cast("list[object]", given)
        if all(isinstance(each, int) and 0 <= each < 256 for each in numbers):
            text = bytes(cast("list[int]", numbers))
    return TokenLogprob(0, _number(logprob), text)


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text or "{}"), dict)
    except (ValueError, RecursionError):
        return False


def _object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _objects(value: object) -> Sequence[Mapping[str, Any]]:
    entries = cast("list[object]", value) if isinstance(value, list) else []
    return [_object(each) for each in entries]


def _text(value: object) -> str:
    """The text; half of a surrogate pair, which JSON may have and UTF-8 may not, is replaced."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode(errors="replace").decode()


def _count(value: object) -> int:
    return min(value, 2**32 - 1) if type(value) is int and value > 0 else 0
