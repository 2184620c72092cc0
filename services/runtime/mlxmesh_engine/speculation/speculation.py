"""Which tokens to propose for the rows of a batch, and what became of them.

A proposal is only a guess: verification accepts a token if the model itself would have drawn it.
"""

from collections.abc import Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

from mlxmesh_engine.sampling.sampler import BatchSampler
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.speculation.acceptance import MAX_PROBABILITY, Acceptance
from mlxmesh_engine.speculation.lengths import (
    MAX_PROPOSED,
    NO_OFFER,
    Offer,
    choose_lengths,
    worth_proposing,
)
from mlxmesh_engine.speculation.ngram import MAX_MATCH, Match, NgramIndex
from mlxmesh_engine.speculation.step_cost import StepCosts

Proposals = Sequence[tuple[int, ...]]
"""One for each row of a batch; an empty one for a row without a proposal."""

# How likely a token after a match of so many tokens is accepted, before anything is measured.
_INITIAL = {2: 0.35, 3: 0.5, MAX_MATCH: 0.7}


class Speculation(Protocol):
    """The source of proposals of one engine; used on the MLX thread."""

    @property
    def kv_bytes(self) -> int:
        """The keys and values that it holds itself."""
        ...

    def may_propose(self, rows: Sequence[ActiveSequence]) -> bool:
        """Whether it is likely to propose for the next tokens of these rows.

        The tokens of a step under way are then read before the next one is launched, which
        `propose` needs.
        """
        ...

    def propose(self, rows: Sequence[ActiveSequence], sampler: BatchSampler) -> Proposals:
        """Proposes the next tokens of rows whose tokens are all known; empty for none at all.

        At most as many for a row as it may still get, less one. sampler: of these rows.
        """
        ...

    def record(self, row: ActiveSequence, *, proposed: int, accepted: int) -> None:
        """Records how many tokens of a row's proposal were verified and accepted."""
        ...

    def record_step(self, seconds: float, *, rows: int, proposed: int, accepted: int) -> None:
        """Records the duration of a step in which foreground rows decoded and nothing else ran."""
        ...


class NoSpeculation:
    """Never proposes."""

    kv_bytes = 0

    def may_propose(self, rows: Sequence[ActiveSequence]) -> bool:
        return False

    def propose(self, rows: Sequence[ActiveSequence], sampler: BatchSampler) -> Proposals:
        return ()

    def record(self, row: ActiveSequence, *, proposed: int, accepted: int) -> None:
        """Nothing is proposed."""

    def record_step(self, seconds: float, *, rows: int, proposed: int, accepted: int) -> None:
        """Costs do not matter."""


def most_tokens(row: ActiveSequence) -> int:
    """The most tokens to propose for a row: with the one drawn after them, what is left."""
    return max(0, min(MAX_PROPOSED, row.request.max_tokens - row.launched - 1))


class _Row:
    """What is known of one sequence."""

    def __init__(self, active: ActiveSequence, acceptance: Acceptance) -> None:
        self.index = NgramIndex((*active.request.prompt, *active.request.generated))
        self.acceptance = Acceptance(acceptance)
        self.indexed = 0
        """How many tokens of its output the index has."""
        self.kind = 0
        """Of the last proposal."""

    def match(self, active: ActiveSequence, most: int) -> Match | None:
        output = active.output
        for at in range(self.indexed, len(output)):
            self.index.append(output[at])
        self.indexed = len(output)
        return self.index.match(most)


class NgramSpeculation:
    """Proposes what followed the last tokens earlier in the same sequence.

    Adaptive: proposes as many tokens as pay, by the measured cost of a step and by how often
    tokens of a row were accepted. Background rows are never proposed for: what they could gain is
    decided by foreground steps alone.
    """

    kv_bytes = 0

    def __init__(self) -> None:
        self._acceptance = Acceptance(_INITIAL)
        self._costs = StepCosts()
        self._rows: WeakKeyDictionary[ActiveSequence, _Row] = WeakKeyDictionary()

    def may_propose(self, rows: Sequence[ActiveSequence]) -> bool:
        return any(match is not None for match in self._matches(rows, most=1))

    def propose(self, rows: Sequence[ActiveSequence], sampler: BatchSampler) -> Proposals:
        matches = self._matches(rows, most=MAX_PROPOSED)
        offers = [
            NO_OFFER
            if match is None
            else Offer(
                self._row(row).acceptance.probability(match.length),
                min(len(match.tokens), most_tokens(row)),
            )
            for row, match in zip(rows, matches, strict=True)
        ]
        lengths = choose_lengths(offers, self._costs.of(len(rows)))
        proposals: list[tuple[int, ...]] = []
        for row, match, length in zip(rows, matches, lengths, strict=True):
            if match is None or not length:
                proposals.append(())
                continue
            self._row(row).kind = match.length
            proposals.append(match.tokens[:length])
        return proposals

    def record(self, row: ActiveSequence, *, proposed: int, accepted: int) -> None:
        own = self._row(row)
        own.acceptance.record(own.kind, proposed=proposed, accepted=accepted)

    def record_step(self, seconds: float, *, rows: int, proposed: int, accepted: int) -> None:
        cost = self._costs.of(rows)
        if proposed:
            cost.record_verified(seconds, rows=rows, proposed=proposed, accepted=accepted)
        else:
            cost.record_plain(seconds)

    def _matches(self, rows: Sequence[ActiveSequence], *, most: int) -> list[Match | None]:
        """Of each row; None where a proposal could not pay."""
        cost = self._costs.of(len(rows)) if rows else None
        if cost is None or rows[0].request.background:
            return [None] * len(rows)
        if not worth_proposing(MAX_PROBABILITY, len(rows), cost):
            return [None] * len(rows)
        found: list[Match | None] = []
        for row in rows:
            own = self._row(row)
            match = own.match(row, most)
            if match is not None:
                probability = own.acceptance.probability(match.length)
                if not worth_proposing(probability, len(rows), cost):
                    own.acceptance.fade(match.length)
                    match = None
            found.append(match)
        return found

    def _row(self, row: ActiveSequence) -> _Row:
        own = self._rows.get(row)
        if own is None:
            own = self._rows[row] = _Row(row, self._acceptance)
        return own
