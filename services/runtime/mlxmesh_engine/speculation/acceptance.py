"""Estimates how likely proposed tokens are accepted. Pure."""

from collections.abc import Mapping

_ROW_DECAY = 0.9
_ENGINE_DECAY = 0.98
# How many tokens what is known before counts for.
_ROW_PRIOR_TOKENS = 3.0
_ENGINE_PRIOR_TOKENS = 16.0
MAX_PROBABILITY = 0.98
# A kind that does not pay is tried again: each proposal that was not made fades what is known.
_ROW_FADING = 0.99
_ENGINE_FADING = 0.999


class Acceptance:
    """The probability that the next token of a proposal is accepted if those before it were.

    By kind of proposal: matches of different lengths, or a draft. Recent proposals count most.
    """

    def __init__(self, initial: "Mapping[int, float] | Acceptance") -> None:
        """initial: the probabilities of an engine, or the engine's estimates for one of its rows.

        What a row records counts for its engine as well.
        """
        self._initial = initial
        self._accepted: dict[int, float] = {}
        self._verified: dict[int, float] = {}

    def probability(self, kind: int) -> float:
        if isinstance(self._initial, Acceptance):
            before, weight = self._initial.probability(kind), _ROW_PRIOR_TOKENS
        else:
            before, weight = self._initial[kind], _ENGINE_PRIOR_TOKENS
        accepted = self._accepted.get(kind, 0.0) + weight * before
        return min(accepted / (self._verified.get(kind, 0.0) + weight), MAX_PROBABILITY)

    def record(self, kind: int, *, proposed: int, accepted: int) -> None:
        """Records one proposal; the tokens after the first rejected one tell nothing."""
        engine = self._initial
        decay = _ENGINE_DECAY
        if isinstance(engine, Acceptance):
            engine.record(kind, proposed=proposed, accepted=accepted)
            decay = _ROW_DECAY
        verified = min(accepted + 1, proposed)
        self._accepted[kind] = decay * self._accepted.get(kind, 0.0) + accepted
        self._verified[kind] = decay * self._verified.get(kind, 0.0) + verified

    def fade(self, kind: int) -> None:
        """Records that a proposal was not made, since its probability was too low."""
        engine, fading = self._initial, _ENGINE_FADING
        if isinstance(engine, Acceptance):
            engine.fade(kind)
            fading = _ROW_FADING
        if kind in self._verified:
            self._accepted[kind] *= fading
            self._verified[kind] *= fading
