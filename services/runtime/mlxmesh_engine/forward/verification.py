"""Verifies proposed tokens in one pass: a token counts if the model itself would have drawn it.

Every place after a row's last token is sampled as in a step of its own: with the row's options, its
penalties after the tokens before it, its constraint's mask, and the randomness of its position.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlxmesh_engine.cache.kv_cache import Batching, RowsCache
from mlxmesh_engine.constraints.masks import MaskThreads, Walk
from mlxmesh_engine.evaluation import token_ids
from mlxmesh_engine.forward.forward_pass import Forward
from mlxmesh_engine.forward.masked_decode import unseen
from mlxmesh_engine.sampling.logprobs import compute_logprobs
from mlxmesh_engine.sampling.row_masks import RowMasks
from mlxmesh_engine.sampling.sampler import BatchSampler
from mlxmesh_engine.scheduling.request import ConstraintState, Logprobs, SequenceKey
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_shared.errors import MeshError


@dataclass(frozen=True, slots=True)
class VerifiedBatch:
    """The tokens of a step whose proposals are verified: one or more for each row."""

    rows: tuple[ActiveSequence, ...]
    tokens: list[tuple[int, ...]]
    logprobs: list[Logprobs | None]
    errors: Mapping[SequenceKey, MeshError]
    proposed: list[int]
    """How many tokens of each row were verified."""
    accepted: list[int]
    """How many of these are among `tokens`."""

    verified = True

    def read_logprobs(self) -> Sequence[Logprobs | None]:
        return self.logprobs

    def wait(self) -> list[tuple[int, ...]]:
        return self.tokens


@dataclass(frozen=True, slots=True)
class Verification:
    """How one batch verifies. inputs: the last token of each row."""

    model: Forward
    batching: Batching
    masks: MaskThreads

    def run(
        self,
        rows: Sequence[ActiveSequence],
        inputs: Sequence[int],
        proposals: Sequence[tuple[int, ...]],
        cache: RowsCache,
        sampler: BatchSampler,
    ) -> VerifiedBatch:
        """Appends what was accepted to the cache and records it in the sampler.

        Raises: Interrupted; then nothing has changed.
        """
        proposals = [_before_end(row, own) for row, own in zip(rows, proposals, strict=True)]
        longest = max(len(own) for own in proposals)
        packed = self.batching is Batching.PACKED
        fed = [
            [token, *own, *([] if packed else [token] * (longest - len(own)))]
            for token, own in zip(inputs, proposals, strict=True)
        ]
        scores, walks = self._compute(rows, inputs, proposals, fed, cache)
        for at, walk in walks.items():
            proposals[at] = proposals[at][: len(walk.allowed) - 1]
        places = _Places(rows, proposals, [len(tokens) for tokens in fed])
        scores = places.select(scores)
        drawn = token_ids(places.sample(scores, sampler, walks))
        tokens = places.accept(drawn)
        cache.cut([len(own) - len(new) for own, new in zip(fed, tokens, strict=True)])
        sampler.record(tokens)
        return VerifiedBatch(
            tuple(rows),
            tokens,
            places.logprobs(scores, drawn, tokens),
            {rows[at].key: walk.error for at, walk in walks.items() if walk.error is not None},
            [len(own) for own in proposals],
            [
                sum(one == other for one, other in zip(own, new, strict=False))
                for own, new in zip(proposals, tokens, strict=True)
            ],
        )

    def _compute(
        self,
        rows: Sequence[ActiveSequence],
        inputs: Sequence[int],
        proposals: Sequence[tuple[int, ...]],
        fed: Sequence[Sequence[int]],
        cache: RowsCache,
    ) -> tuple[mx.array, dict[int, Walk]]:
        """The scores (fed tokens, vocab), and beside them the masks of constrained rows."""
        constrained = [
            (at, state)
            for at, row in enumerate(rows)
            if (state := row.request.constraint_state) is not None and not state.free
        ]
        if not constrained:
            return self.model.decode_several(fed, cache), {}
        pending = self._start(rows, inputs, proposals, constrained)
        try:
            scores = self.model.decode_several(fed, cache)
        finally:
            # The rows may be restarted: nothing may use their states by then.
            wait([pending])
        walks = pending.result()
        return scores, {at: walk for (at, _), walk in zip(constrained, walks, strict=True)}

    def _start(
        self,
        rows: Sequence[ActiveSequence],
        inputs: Sequence[int],
        proposals: Sequence[tuple[int, ...]],
        constrained: Sequence[tuple[int, ConstraintState]],
    ) -> Future[list[Walk]]:
        return self.masks.start_walks(
            [state for _, state in constrained],
            # A state has seen the tokens with which its sequence was submitted, or restarted.
            [unseen(rows[at], inputs[at]) for at, _ in constrained],
            [proposals[at] for at, _ in constrained],
        )


class _Places:
    """The places that are sampled: after the last token of each row, and after its proposal's."""

    def __init__(
        self,
        rows: Sequence[ActiveSequence],
        proposals: Sequence[tuple[int, ...]],
        fed: Sequence[int],
    ) -> None:
        """fed: how many tokens of each row went through the model."""
        self._rows = rows
        self._proposals = proposals
        self._owners = [at for at, own in enumerate(proposals) for _ in range(len(own) + 1)]
        self._depths = [depth for own in proposals for depth in range(len(own) + 1)]
        starts = np.cumsum([0, *fed])[:-1]
        self._fed = sum(fed)
        self._indexes = [
            int(starts[at]) + depth for at, depth in zip(self._owners, self._depths, strict=True)
        ]

    def select(self, scores: mx.array) -> mx.array:
        """The scores (places, vocab) of all tokens that were fed."""
        if len(self._indexes) == self._fed:
            return scores
        return scores[mx.array(self._indexes)]

    def sample(
        self, scores: mx.array, sampler: BatchSampler, walks: Mapping[int, Walk]
    ) -> mx.array:
        """A token (places,) as each place's own step would draw it if it came to it."""
        before = [
            self._proposals[at][:depth]
            for at, depth in zip(self._owners, self._depths, strict=True)
        ]
        positions = [
            self._rows[at].launched + depth
            for at, depth in zip(self._owners, self._depths, strict=True)
        ]
        sampling = sampler.at_places(self._owners, before)
        return sampling.sample(scores, positions, self._masks(walks))

    def accept(self, drawn: Sequence[int]) -> list[tuple[int, ...]]:
        """Each row's new tokens: those drawn as proposed, and the one drawn after them."""
        found: list[tuple[int, ...]] = []
        start = 0
        for row, proposal in zip(self._rows, self._proposals, strict=True):
            own = drawn[start : start + len(proposal) + 1]
            start += len(own)
            count = 1
            for token, proposed in zip(own, proposal, strict=False):
                if token != proposed or token in row.request.end_token_ids:
                    break
                count += 1
            found.append(tuple(own[:count]))
        return found

    def logprobs(
        self, scores: mx.array, drawn: Sequence[int], tokens: Sequence[tuple[int, ...]]
    ) -> list[Logprobs | None]:
        """Those of the new tokens of each row that requested them."""
        options = [row.request.logprobs for row in self._rows]
        kept = [
            place
            for place, (at, depth) in enumerate(zip(self._owners, self._depths, strict=True))
            if options[at] is not None and depth < len(tokens[at])
        ]
        found: list[Logprobs | None] = [None] * len(self._rows)
        if not kept:
            return found
        top = max(each.top for each in options if each is not None)
        chosen = mx.array([drawn[place] for place in kept], mx.uint32)
        launched = compute_logprobs(scores[mx.array(kept)], chosen, top)
        for place, value, ids, values in zip(kept, *launched.read(), strict=True):
            at = self._owners[place]
            own = options[at]
            assert own is not None
            one = Logprobs((value,), tuple(ids[: own.top]), tuple(values[: own.top]))
            earlier = found[at]
            found[at] = one if earlier is None else earlier.followed_by(one)
        return found

    def _masks(self, walks: Mapping[int, Walk]) -> RowMasks | None:
        if not walks:
            return None
        places = [place for place, at in enumerate(self._owners) if at in walks]
        allowed = np.concatenate([walks[at].allowed for at in sorted(walks)])
        return RowMasks(places, len(self._owners), allowed)


def _before_end(row: ActiveSequence, proposal: tuple[int, ...]) -> tuple[int, ...]:
    """A proposal up to the first token that would end its row."""
    for at, token in enumerate(proposal):
        if token in row.request.end_token_ids:
            return proposal[: at + 1]
    return proposal
