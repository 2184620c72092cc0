"""The output of one generation: tokens in, deltas out, up to a stop text. Pure."""

from array import array
from collections.abc import Sequence

from mlxmesh_generation.detokenize import Detokenizer
from mlxmesh_generation.request import Delta, Resumed
from mlxmesh_generation.stops import StopScanner


class Output:
    """Every token so far, whichever engine made it, and the text that they come to."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str]) -> None:
        self.token_ids = array("I")
        self.stop_text: str | None = None
        """The stop text that was found; nothing is taken after it."""
        self._detokenizer = detokenizer
        self._stops = StopScanner(stops) if stops else None
        # Of an output that began in another process: characters that its reader has, and the last
        # token, of which only an engine can tell whether it is an end token.
        self._sent_characters = 0
        self._unconfirmed: Sequence[int] = ()

    def replay(self, resumed: Resumed) -> list[Delta]:
        """Takes what another process gave out; returns what of its text was held back there."""
        self.token_ids.extend(resumed.token_ids)
        self._sent_characters = resumed.text_characters
        self._unconfirmed = resumed.token_ids[-1:]
        return self._silent(resumed.token_ids[:-1])

    def confirm(self, *, ends: bool) -> list[Delta]:
        """Takes the last replayed token; one that `ends` the output has no text."""
        token_ids, self._unconfirmed = self._unconfirmed, ()
        return [] if ends else self._silent(token_ids)

    def feed(self, token_ids: Sequence[int], *, stopped: bool) -> list[Delta]:
        """With `stopped`, the last of them is an end token, which has no text."""
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
        """The text held back; what an unfinished character ends in may be a stop text."""
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
