"""The text of a generation, cut before the first stop text."""

from array import array
from collections.abc import Sequence

from mlxmesh_generation.domain.request import Delta, ReceivedOutput, Resumed
from mlxmesh_generation.text.detokenize import Detokenizer


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
    """Every token so far, from all engines, and their text."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str]) -> None:
        self.token_ids = array("I")
        self.stop_text: str | None = None
        """The stop text that was found; tokens after it are ignored."""
        self._detokenizer = detokenizer
        self._stops = StopScanner(stops) if stops else None
        # For an output from another process: the number of characters that its reader has, and the
        # last token; only an engine knows whether that is an end token.
        self._sent_characters = 0
        self._unconfirmed: Sequence[int] = ()

    def replay(self, resumed: Resumed) -> list[Delta]:
        """Adds the output of another process; returns the text that it held back."""
        received = resumed.outputs.get(0, ReceivedOutput())
        self.token_ids.extend(received.token_ids)
        self._sent_characters = received.text_characters
        self._unconfirmed = received.token_ids[-1:]
        return self._silent(received.token_ids[:-1])

    def confirm(self, *, ends: bool) -> list[Delta]:
        """Adds the last replayed token; one that `ends` the output has no text."""
        token_ids, self._unconfirmed = self._unconfirmed, ()
        return [] if ends else self._silent(token_ids)

    def feed(self, token_ids: Sequence[int], *, stopped: bool) -> list[Delta]:
        """With `stopped`, the last token is an end token, which has no text."""
        with_text = len(token_ids) - stopped
        if self._stops is None:
            return [self._delta(self._detokenizer.feed(token_ids[:with_text]), token_ids)]
        deltas: list[Delta] = []
        # One token at a time, to know which of them completed a stop text.
        for token_id in token_ids[:with_text]:
            deltas.append(self._delta(self._text(token_id), (token_id,)))
            if self.stop_text is not None:
                return deltas
        return [*deltas, self._delta("", token_ids[with_text:])]

    def flush(self) -> list[Delta]:
        """The text held back; an incomplete character at its end may complete a stop text."""
        if self.stop_text is not None:
            return []
        text = self._detokenizer.flush()
        if self._stops is not None:
            text, self.stop_text = self._stops.feed(text)
            text += "" if self.stop_text is not None else self._stops.flush()
        return self._unsent(text)

    def _text(self, token_id: int) -> str:
        text = self._detokenizer.feed((token_id,))
        if self._stops is not None:
            text, self.stop_text = self._stops.feed(text)
        return text

    def _silent(self, token_ids: Sequence[int]) -> list[Delta]:
        texts: list[str] = []
        for token_id in token_ids:
            texts.append(self._text(token_id))
            if self.stop_text is not None:
                break
        return self._unsent("".join(texts))

    def _unsent(self, text: str) -> list[Delta]:
        delta = self._delta(text, ())
        return [delta] if delta.text else []

    def _delta(self, text: str, token_ids: Sequence[int]) -> Delta:
        if self._sent_characters:
            known = min(self._sent_characters, len(text))
            self._sent_characters -= known
            text = text[known:]
        self.token_ids.extend(token_ids)
        return Delta(text, tuple(token_ids))
