"""Joins the stored messages of a generation's stream."""

from collections.abc import Iterable
from typing import Any

from mlxmesh.generation.v1.generation_pb2 import (
    CompleteResponse,
    Delta,
    GenerateResponse,
    Output,
    ToolCall,
)


def joined(messages: Iterable[GenerateResponse]) -> CompleteResponse:
    """What the stream contains so far, as `Complete` would return it."""
    response = CompleteResponse()
    texts: dict[int, _Texts] = {}
    for message in messages:
        match message.WhichOneof("event"):
            case "started":
                response.started.CopyFrom(message.started)
            case "delta":
                texts.setdefault(message.delta.index, _Texts()).add(message.delta)
            case "finished":
                texts.setdefault(message.finished.index, _Texts()).finished = message.finished
            case "prompt_logprobs":
                response.prompt_logprobs.extend(message.prompt_logprobs.tokens)
            case _:
                pass
    for index in sorted(texts):
        texts[index].fill(response.other_outputs.add(index=index) if index else response)
    return response


class _Texts:
    """What has arrived of one output."""

    def __init__(self) -> None:
        self.finished: Any = None
        self._deltas: list[Delta] = []

    def add(self, delta: Delta) -> None:
        self._deltas.append(delta)

    def fill(self, output: CompleteResponse | Output) -> None:
        output.text = "".join(each.text for each in self._deltas)
        output.reasoning_text = "".join(each.reasoning_text for each in self._deltas)
        output.tool_calls.extend(_tool_calls(self._deltas))
        for each in self._deltas:
            output.token_ids.extend(each.token_ids)
            output.logprobs.extend(each.logprobs)
        if self.finished is not None:
            output.finished.CopyFrom(self.finished)


def _tool_calls(deltas: Iterable[Delta]) -> list[ToolCall]:
    """The pieces of each call, as one."""
    calls: dict[int, ToolCall] = {}
    arguments: dict[int, list[str]] = {}
    for piece in (piece for delta in deltas for piece in delta.tool_calls):
        call = calls.setdefault(piece.index, ToolCall(index=piece.index))
        call.id, call.name = call.id or piece.id, call.name or piece.name
        arguments.setdefault(piece.index, []).append(piece.arguments)
    for index, call in calls.items():
        call.arguments = "".join(arguments[index])
    return list(calls.values())
