"""How much of a generation its messages have sent, to compare with what a caller received. Pure.

Instances number messages as they are read, so the same number stands for other tokens elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass

from mlxmesh_generation.domain.request import (
    Delta,
    Event,
    Finished,
    PromptLogprobs,
    ReceivedOutput,
    Resumed,
)


@dataclass
class _Output:
    tokens: int = 0
    text_characters: int = 0
    reasoning_characters: int = 0
    tool_calls: int = 0
    arguments_characters: int = 0
    finished: bool = False

    def add(self, delta: Delta) -> None:
        self.tokens += len(delta.token_ids)
        self.text_characters += len(delta.text)
        self.reasoning_characters += len(delta.reasoning)
        for piece in delta.calls:
            if piece.index >= self.tool_calls:
                self.tool_calls, self.arguments_characters = piece.index + 1, 0
            self.arguments_characters += len(piece.arguments)


class Sent:
    """Counts messages."""

    def __init__(self, resumed: Resumed | None = None) -> None:
        """resumed: what was sent before, by other processes."""
        self._prompt_logprobs = resumed.prompt_logprobs if resumed else 0
        self._outputs: defaultdict[int, _Output] = defaultdict(_Output)
        if resumed:
            self._outputs.update({i: _received(each) for i, each in resumed.outputs.items()})

    def add(self, event: Event) -> None:
        """Counts one more message."""
        if isinstance(event, Delta):
            self._outputs[event.index].add(event)
        elif isinstance(event, Finished):
            self._outputs[event.index].finished = True
        elif isinstance(event, PromptLogprobs):
            self._prompt_logprobs += len(event.tokens)

    def is_what_was_received(self, events: Iterable[Event], resumed: Resumed) -> bool:
        """Whether this and then these messages are all that a caller has received."""
        sent = deepcopy(self)
        for event in events:
            sent.add(event)
        received = Sent(resumed)
        same = sent._prompt_logprobs == received._prompt_logprobs
        return same and all(
            sent._outputs[index] == received._outputs[index]
            for index in {*sent._outputs, *received._outputs}
        )


def _received(output: ReceivedOutput) -> _Output:
    return _Output(
        len(output.token_ids),
        output.text_characters,
        output.reasoning_characters,
        output.tool_calls,
        output.arguments_characters,
        output.finished is not None,
    )
