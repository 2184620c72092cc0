"""Reads streams with several outputs, reasoning, tool calls and log-probabilities."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlxmesh.generation.v1.generation_pb2 import FinishReason, GenerateResponse
from tests.chaos.checker import Kind, Violation
from tests.chaos.clients import Reader
from tests.chaos.history import Call, Ending, Message

LOGPROB_TOLERANCE = 1e-3


@dataclass
class _Output:
    messages: list[Message] = field(default_factory=list[Message])
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    call_ids: set[str] = field(default_factory=set[str])
    logprobs: list[float] = field(default_factory=list[float])
    ending: Ending | None = None

    def add(self, response: GenerateResponse) -> None:
        delta = response.delta
        number = len(self.messages) + 1
        tokens = tuple(delta.token_ids)
        self.messages.append(Message(number, time.monotonic(), tokens, delta.text))
        self.reasoning += delta.reasoning_text
        self.logprobs += [one.logprob for one in delta.logprobs]
        for piece in delta.tool_calls:
            if piece.index == len(self.calls):
                # Its value depends on the request_id, which each round chooses anew.
                has_own_id = bool(piece.id) and piece.id not in self.call_ids
                self.call_ids.add(piece.id)
                self.calls.append({"has_own_id": has_own_id, "name": piece.name, "arguments": ""})
            self.calls[piece.index]["arguments"] += piece.arguments

    def all_messages(self) -> list[Message]:
        """The messages; the text of the last one also has all that is not text."""
        if self.ending is None or not self.messages:
            return self.messages
        beside = json.dumps({"reasoning": self.reasoning, "calls": self.calls})
        last = self.messages[-1]
        return [*self.messages[:-1], replace(last, text=last.text + beside)]


class ShapeReader(Reader):
    """A call, seen as one call for each of its outputs, so that the checker can compare them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._outputs: dict[int, _Output] = {}

    def outputs(self) -> list[Call]:
        """As they stand."""
        whole = self.call()
        return [self._call(whole, index) for index in range(self._request.n or 1)]

    def logprobs(self) -> dict[str, list[float]]:
        """Those of each output, by what it was asked."""
        return {call.request: self._output(n).logprobs for n, call in enumerate(self.outputs())}

    def _call(self, whole: Call, index: int) -> Call:
        output = self._output(index)
        messages = output.all_messages()
        if [one.sequence for one in whole.messages] != list(range(1, len(whole.messages) + 1)):
            # The checker finds the gap.
            messages = [replace(one, sequence=one.sequence + 1) for one in messages]
        return replace(
            whole,
            call_id=f"{whole.call_id}-{index}",
            request=f"{index} of {whole.request}",
            messages=messages,
            ending=output.ending,
        )

    def _output(self, index: int) -> _Output:
        return self._outputs.setdefault(index, _Output())

    def _note(self, response: GenerateResponse) -> None:
        super()._note(response)
        if response.HasField("delta"):
            self._output(response.delta.index).add(response)
        elif response.HasField("finished"):
            finished = response.finished
            self._output(finished.index).ending = Ending(
                finish_reason=FinishReason.Name(finished.finish_reason),
                completion_tokens=finished.usage.completion_tokens,
                resumptions=finished.timings.resumptions,
            )


def wrong_logprobs(
    seen: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]], call_id: str
) -> list[Violation]:
    """The outputs whose log-probabilities are not those of the undisturbed run."""
    return [
        Violation(call_id, Kind.WRONG_TEXT, f"log-probabilities of {request[:60]}")
        for request, values in seen.items()
        if not _close(values, reference[request])
    ]


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= LOGPROB_TOLERANCE for a, b in zip(one, other, strict=True)
    )
