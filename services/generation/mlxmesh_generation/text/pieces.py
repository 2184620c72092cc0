"""What a caller gets of one output: text, reasoning and tool calls. Pure."""

from typing import NamedTuple, Protocol

from mlxmesh_generation.domain.request import CallPiece, ReceivedOutput


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


class PieceReader(Protocol):
    """Reads one output, the text of one token after another."""

    @property
    def reasoning_tokens(self) -> int: ...
    @property
    def calls(self) -> int:
        """How many calls began."""
        ...

    @property
    def calls_valid(self) -> bool | None:
        """Whether every call parses; None without a call."""
        ...

    def read(self, text: str) -> Pieces:
        """The pieces that the text of one token completes; it may have none."""
        ...

    def read_more(self, text: str) -> Pieces:
        """As read(), of text whose tokens were counted before."""
        ...

    def flush(self) -> Pieces:
        """The pieces held back, once no more text can follow."""
        ...


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
