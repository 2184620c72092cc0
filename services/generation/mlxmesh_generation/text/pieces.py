"""What a caller gets of one output: text, reasoning and tool calls. Pure."""

from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from mlxmesh_generation.domain.request import CallPiece, ReceivedOutput
from mlxmesh_generation.parsers.parts import (
    ArgumentsPart,
    CallPart,
    OutputParser,
    Part,
    ReasoningPart,
)

# The contract's limit.
MAX_CALL_ID_LENGTH = 128
_OWN_ID_LENGTH = 24


class Pieces(NamedTuple):
    """New output of each kind."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()

    def followed_by(self, later: "Pieces") -> "Pieces":
        return Pieces(
            self.text + later.text,
            self.reasoning + later.reasoning,
            joined_calls(self.calls, later.calls),
        )


NOTHING = Pieces()


def joined_calls(
    calls: tuple[CallPiece, ...], later: tuple[CallPiece, ...]
) -> tuple[CallPiece, ...]:
    """The pieces in order; those of one call in a row are one."""
    if not calls or not later:
        return calls or later
    last, first = calls[-1], later[0]
    if last.index != first.index:
        return calls + later
    joined = CallPiece(last.index, last.call_id, last.name, last.arguments + first.arguments)
    return (*calls[:-1], joined, *later[1:])


class PartReader:
    """Reads one output with a parser: numbers its calls and gives each an id."""

    def __init__(self, parser: OutputParser, request_id: str, output_index: int) -> None:
        self.reasoning_tokens = 0
        self.calls = 0
        """How many calls began."""
        self._parser = parser
        self._id_prefix = f"{request_id} {output_index} "
        self._call_ids: set[str] = set()

    def read(self, text: str) -> Pieces:
        """The pieces that the text of one token completes; it may have none."""
        self.reasoning_tokens += self._parser.in_reasoning
        return self.read_more(text)

    def read_more(self, text: str) -> Pieces:
        """As read(), of text whose tokens were counted before."""
        return self._pieces(self._parser.feed(text)) if text else NOTHING

    def flush(self) -> Pieces:
        """The pieces held back, once no more text can follow."""
        return self._pieces(self._parser.flush())

    def _pieces(self, parts: Iterable[Part]) -> Pieces:
        text, reasoning, calls = "", "", tuple[CallPiece, ...]()
        for part in parts:
            if isinstance(part, CallPart):
                calls = joined_calls(calls, (self._begin_call(part),))
            elif isinstance(part, ArgumentsPart):
                calls = joined_calls(calls, (CallPiece(self.calls - 1, arguments=part.text),))
            elif isinstance(part, ReasoningPart):
                reasoning += part.text
            else:
                text += part.text
        return Pieces(text, reasoning, calls)

    def _begin_call(self, part: CallPart) -> CallPiece:
        index, call_id = self.calls, part.call_id
        self.calls += 1
        if not 0 < len(call_id) <= MAX_CALL_ID_LENGTH or call_id in self._call_ids:
            # Derived, so that it is the same after a resumption.
            digest = sha256(f"{self._id_prefix}{index}".encode()).hexdigest()
            call_id = f"call_{digest[:_OWN_ID_LENGTH]}"
        self._call_ids.add(call_id)
        return CallPiece(index, call_id, part.name)


class ReceivedPieces:
    """Leaves out what the caller received from another process."""

    def __init__(self, received: ReceivedOutput) -> None:
        self._text = received.text_characters
        self._reasoning = received.reasoning_characters
        self._calls = received.tool_calls
        self._arguments = received.arguments_characters

    def unsent(self, pieces: Pieces) -> Pieces:
        """What is new of the next pieces."""
        text, reasoning = pieces.text[self._text :], pieces.reasoning[self._reasoning :]
        self._text -= len(pieces.text) - len(text)
        self._reasoning -= len(pieces.reasoning) - len(reasoning)
        calls = pieces.calls and tuple(filter(None, map(self._unsent_call, pieces.calls)))
        return Pieces(text, reasoning, calls)

    def _unsent_call(self, piece: CallPiece) -> CallPiece | None:
        if piece.index >= self._calls:
            return piece
        if piece.index < self._calls - 1:
            return None
        arguments = piece.arguments[self._arguments :]
        self._arguments -= len(piece.arguments) - len(arguments)
        return CallPiece(piece.index, arguments=arguments) if arguments else None
