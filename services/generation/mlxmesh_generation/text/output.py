"""What the tokens of one output say, cut before the first stop text."""

from array import array
from collections.abc import Sequence

from mlxmesh_generation.domain.request import Delta, ReceivedOutput, TokenLogprob
from mlxmesh_generation.text.detokenize import Detokenizer
from mlxmesh_generation.text.pieces import NOTHING, PieceReader, Pieces, ReceivedPieces


class StopScanner:
    """Forwards text, but holds back a suffix that may be the beginning of a stop text.

    The match that completes first wins; of matches that complete at the same character, the longest
    wins. So the result does not depend on how the text is split into chunks.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._beginnings = {stop[:end] for stop in stops for end in range(1, len(stop))}
        self._max_held = max((len(stop) - 1 for stop in stops), default=0)
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """The text that can be sent now, and the stop text that follows it, if one was found."""
        text = self._held + text
        match = self._first_match(text)
        if match is not None:
            start, stop = match
            self._held = ""
            return text[:start], stop
        shown = len(text) - self._hold(text)
        self._held = text[shown:]
        return text[:shown], None

    def flush(self) -> str:
        """The text held back, once no more text can follow."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int, str] | None:
        found = [(text.find(stop), stop) for stop in self._stops]
        matches = [(start, stop) for start, stop in found if start >= 0]
        return min(matches, key=lambda match: (match[0] + len(match[1]), match[0]), default=None)

    def _hold(self, text: str) -> int:
        """The length of the longest suffix that begins a stop text."""
        for length in range(min(self._max_held, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                return length
        return 0


class Output:
    """Every token of one output so far, from all engines, and what they say."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: Sequence[str],
        *,
        index: int = 0,
        reader: PieceReader | None = None,
    ) -> None:
        """Without a reader, all of it is text."""
        self.token_ids = array("I")
        self.stop_text: str | None = None
        """The stop text that was found; tokens after it are ignored."""
        self._index = index
        self._detokenizer = detokenizer
        self._stops = StopScanner(stops) if stops else None
        self._reader = reader
        self._reads_each = bool(stops) or reader is not None
        # For an output from another process: what its reader has, and the last token; only an
        # engine knows whether that is an end token.
        self._received: ReceivedPieces | None = None
        self._unconfirmed: Sequence[int] = ()

    @property
    def calls(self) -> int:
        """How many tool calls began."""
        return self._reader.calls if self._reader is not None else 0

    @property
    def calls_valid(self) -> bool | None:
        """Whether every call parses; None without a call."""
        return self._reader.calls_valid if self._reader is not None else None

    @property
    def reasoning_tokens(self) -> int:
        return self._reader.reasoning_tokens if self._reader is not None else 0

    def replay(self, received: ReceivedOutput) -> list[Delta]:
        """Adds the output of another process; returns what that held back."""
        self.token_ids.extend(received.token_ids)
        self._received = ReceivedPieces(received)
        self._unconfirmed = received.token_ids[-1:]
        return self._replayed(received.token_ids[:-1])

    def confirm(self, *, ends: bool) -> list[Delta]:
        """Adds the last replayed token; one that `ends` the output has no text."""
        token_ids, self._unconfirmed = self._unconfirmed, ()
        return [] if ends or not token_ids else self._replayed(token_ids)

    def feed(
        self, token_ids: Sequence[int], *, stopped: bool, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> list[Delta]:
        """With `stopped`, the last token is an end token, which has no text.

        logprobs: one for each token, or none.
        """
        with_text = len(token_ids) - stopped
        if not self._reads_each:
            text = self._detokenizer.feed(token_ids[:with_text])
            if self._received is not None:
                return [self._delta(Pieces(text), token_ids, logprobs)]
            self.token_ids.extend(token_ids)
            return [Delta(text, tuple(token_ids), self._index, "", (), logprobs)]
        deltas: list[Delta] = []
        # One token at a time, to know which of them completed a stop text or ended reasoning.
        for place, token_id in enumerate(token_ids[:with_text]):
            pieces = self._read(token_id)
            deltas.append(self._delta(pieces, (token_id,), logprobs[place : place + 1]))
            if self.stop_text is not None:
                return deltas
        return [*deltas, self._delta(NOTHING, token_ids[with_text:], logprobs[with_text:])]

    def flush(self) -> list[Delta]:
        """What was held back; an incomplete character at its end may complete a stop text."""
        if self.stop_text is not None:
            return []
        text = self._detokenizer.flush()
        if self._stops is not None:
            text, self.stop_text = self._stops.feed(text)
            text += "" if self.stop_text is not None else self._stops.flush()
        if self._reader is None:
            return self._without_tokens(Pieces(text))
        return self._without_tokens(self._reader.read_more(text).followed_by(self._reader.flush()))

    def _read(self, token_id: int) -> Pieces:
        text = self._detokenizer.feed((token_id,))
        if self._stops is not None:
            text, self.stop_text = self._stops.feed(text)
        if self._reader is None:
            return Pieces(text)
        pieces = self._reader.read(text)
        return pieces if self.stop_text is None else pieces.followed_by(self._reader.flush())

    def _replayed(self, token_ids: Sequence[int]) -> list[Delta]:
        every: list[Pieces] = []
        for token_id in token_ids:
            every.append(self._read(token_id))
            if self.stop_text is not None:
                break
        return [
            delta for pieces in every if pieces != NOTHING for delta in self._without_tokens(pieces)
        ]

    def _without_tokens(self, pieces: Pieces) -> list[Delta]:
        delta = self._delta(pieces, ())
        return [delta] if delta.text or delta.reasoning or delta.calls else []

    def _delta(
        self, pieces: Pieces, token_ids: Sequence[int], logprobs: tuple[TokenLogprob, ...] = ()
    ) -> Delta:
        if self._received is not None:
            pieces = self._received.unsent(pieces)
        self.token_ids.extend(token_ids)
        text, reasoning, calls = pieces
        return Delta(text, tuple(token_ids), self._index, reasoning, calls, logprobs)
