"""Turns what a parser makes of one output into pieces for the caller. Pure."""

from collections.abc import Collection, Iterable
from hashlib import sha256

from mlxmesh_generation.domain.request import CallPiece
from mlxmesh_generation.parsers.call_check import CallCheck
from mlxmesh_generation.parsers.parts import (
    ArgumentsPart,
    CallPart,
    OutputParser,
    Part,
    ReasoningPart,
)
from mlxmesh_generation.text.pieces import NOTHING, Pieces, joined_calls

# The contract's limit.
MAX_CALL_ID_LENGTH = 128
_OWN_ID_LENGTH = 24


class PartReader:
    """Satisfies PieceReader with a parser: numbers the calls of an output and gives each an id."""

    def __init__(
        self,
        parser: OutputParser,
        request_id: str,
        output_index: int,
        *,
        call_markers: Collection[str] = (),
    ) -> None:
        """call_markers: the texts that only calls have."""
        self.reasoning_tokens = 0
        self.calls = 0
        """How many calls began."""
        self._parser = parser
        self._id_prefix = f"{request_id} {output_index} "
        self._call_ids: set[str] = set()
        self._check = CallCheck(call_markers)

    @property
    def calls_valid(self) -> bool | None:
        return self._check.valid

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
                self._check.begin()
                calls = joined_calls(calls, (self._begin_call(part),))
            elif isinstance(part, ArgumentsPart):
                self._check.arguments(part.text)
                calls = joined_calls(calls, (CallPiece(self.calls - 1, arguments=part.text),))
            elif isinstance(part, ReasoningPart):
                reasoning += part.text
            else:
                self._check.text(part.text)
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
