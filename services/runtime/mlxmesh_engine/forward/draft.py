"""A smaller model with the same tokenizer proposes tokens, for all rows of a batch at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import mlx.core as mx

from mlxmesh_engine.cache.kv_cache import Batching, RowsCache
from mlxmesh_engine.evaluation import token_ids
from mlxmesh_engine.forward.forward_pass import Forward
from mlxmesh_engine.sampling.sampler import BatchSampler
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.speculation.acceptance import Acceptance
from mlxmesh_engine.speculation.lengths import NO_OFFER, Offer, choose_lengths, worth_proposing
from mlxmesh_engine.speculation.speculation import Proposals, most_tokens
from mlxmesh_engine.speculation.step_cost import StepCosts

# A prompt goes through the draft model in parts: the rows that decode wait for each.
_MAX_PREFILL_TOKENS = 256
# So few tokens go through it together with the row's last one.
_MAX_MISSING_TOKENS = 16
_KIND = 0
_INITIAL = {_KIND: 0.6}


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A loaded draft model; its caches can be cut."""

    forward: Forward
    batching: Batching
    context_tokens: int
    """It drafts for sequences that stay within so many tokens."""


class DraftBatch:
    """The draft model's keys and values of the rows of one batch.

    After each call they hold all tokens of a member but its last. Rows become members once their
    prompts went through the draft model.
    """

    def __init__(self, model: DraftModel) -> None:
        self._model = model
        self._members: list[ActiveSequence] = []
        self._held: list[int] = []
        self._cache: RowsCache | None = None
        self._joining: dict[ActiveSequence, tuple[RowsCache, int]] = {}

    @property
    def nbytes(self) -> int:
        joining = sum(cache.nbytes for cache, _ in self._joining.values())
        return joining + (self._cache.nbytes if self._cache is not None else 0)

    @property
    def members(self) -> Sequence[ActiveSequence]:
        return self._members

    def follow(self, rows: Sequence[ActiveSequence]) -> bool:
        """Drops rows that left and prefills new ones; whether a part of a prompt was prefilled."""
        present = set(rows)
        self._keep([at for at, member in enumerate(self._members) if member in present])
        self._joining = {row: its for row, its in self._joining.items() if row in present}
        left = _MAX_PREFILL_TOKENS
        members = set(self._members)
        for row in rows:
            fits = row.request.max_total_tokens <= self._model.context_tokens
            if fits and row not in members and left > 0:
                left -= self._prefill(row, left)
        return left < _MAX_PREFILL_TOKENS

    def draft(
        self, count: int, numbers: Mapping[ActiveSequence, int], sampler: BatchSampler
    ) -> dict[ActiveSequence, tuple[int, ...]]:
        """Drafts `count` tokens for each member, with the options and randomness of its own draws.

        numbers: the places of the members in the batch, whose sampler this is.
        """
        members, cache = self._members, self._cache
        if cache is None:
            return {}
        own = sampler.at_places([numbers[member] for member in members], [()] * len(members))
        missing = [
            tokens_from(member, held) for member, held in zip(members, self._held, strict=True)
        ]
        scores = mx.stack([each[-1] for each in self._model.forward.scores(missing, cache)])
        drafted: list[list[int]] = []
        for step in range(count):
            inputs = own.sample(scores, [member.launched + step for member in members])
            drafted.append(token_ids(inputs))
            if step + 1 < count:
                scores = self._model.forward.decode(inputs.astype(mx.uint32), cache)
        cache.cut([count] * len(members))
        self._held = [
            held + len(tokens) - 1 for held, tokens in zip(self._held, missing, strict=True)
        ]
        return dict(zip(members, zip(*drafted, strict=True), strict=True))

    def _prefill(self, row: ActiveSequence, most: int) -> int:
        """Prefills up to `most` tokens of a new row; returns how many. A complete one joins."""
        forward = self._model.forward
        cache, held = self._joining.get(row) or (forward.new_cache([None]), 0)
        missing = tokens_from(row, held)[:-1]
        part = missing[:most]
        if part:
            forward.prefill([part], cache)
        held += len(part)
        if len(part) < len(missing):
            self._joining[row] = (cache, held)
            return len(part)
        self._joining.pop(row, None)
        if self._cache is None:
            self._cache = cache
        else:
            self._cache.extend(cache)
        self._members.append(row)
        self._held.append(held)
        return len(part)

    def _keep(self, keep: Sequence[int]) -> None:
        """Keeps these members, of those that did not fall behind too far."""
        keep = [
            at for at in keep if known(self._members[at]) - self._held[at] <= _MAX_MISSING_TOKENS
        ]
        if len(keep) == len(self._members):
            return
        self._members = [self._members[at] for at in keep]
        self._held = [self._held[at] for at in keep]
        if not keep:
            self._cache = None
        elif self._cache is not None:
            self._cache.filter(keep)


class DraftSpeculation:
    """Proposes what a draft model drafts; adaptive as `NgramSpeculation`."""

    def __init__(self, model: DraftModel) -> None:
        self._model = model
        self._acceptance = Acceptance(_INITIAL)
        self._costs = StepCosts()
        self._batches: WeakKeyDictionary[BatchSampler, DraftBatch] = WeakKeyDictionary()
        self._rows: WeakKeyDictionary[ActiveSequence, Acceptance] = WeakKeyDictionary()
        self._prefilled = False

    @property
    def kv_bytes(self) -> int:
        return sum(batch.nbytes for batch in self._batches.values())

    def may_propose(self, rows: Sequence[ActiveSequence]) -> bool:
        if not rows or rows[0].request.background:
            return False
        cost = self._costs.of(len(rows))
        return any(
            worth_proposing(self._of(row).probability(_KIND), len(rows), cost) for row in rows
        )

    def propose(self, rows: Sequence[ActiveSequence], sampler: BatchSampler) -> Proposals:
        if not self.may_propose(rows):
            for row in rows:
                self._of(row).fade(_KIND)
            return ()
        offers = [
            Offer(self._of(row).probability(_KIND), most_tokens(row))
            if row.request.max_total_tokens <= self._model.context_tokens
            else NO_OFFER
            for row in rows
        ]
        lengths = choose_lengths(offers, self._costs.of(len(rows)))
        if not any(lengths):
            return ()
        # Only now: prompts that nobody drafts for need not go through the draft model.
        if sampler not in self._batches:
            self._batches[sampler] = DraftBatch(self._model)
        batch = self._batches[sampler]
        self._prefilled = batch.follow(rows)
        if not batch.members:
            return ()
        numbers = {row: at for at, row in enumerate(rows)}
        drafted = batch.draft(max(lengths), numbers, sampler)
        return [drafted.get(row, ())[:length] for row, length in zip(rows, lengths, strict=True)]

    def record(self, row: ActiveSequence, *, proposed: int, accepted: int) -> None:
        self._of(row).record(_KIND, proposed=proposed, accepted=accepted)

    def record_step(self, seconds: float, *, rows: int, proposed: int, accepted: int) -> None:
        cost = self._costs.of(rows)
        if proposed:
            cost.record_verified(seconds, rows=rows, proposed=proposed, accepted=accepted)
        elif self._prefilled:
            cost.record_preparation(seconds)
        else:
            cost.record_plain(seconds)
        self._prefilled = False

    def _of(self, row: ActiveSequence) -> Acceptance:
        own = self._rows.get(row)
        if own is None:
            own = self._rows[row] = Acceptance(self._acceptance)
        return own


def known(row: ActiveSequence) -> int:
    """How many tokens a sequence has."""
    return len(row.request.prompt) + row.generated_tokens


def tokens_from(row: ActiveSequence, start: int) -> list[int]:
    """The tokens of a sequence from this one on."""
    before = len(row.request.prompt) + len(row.request.generated)
    if start >= before:
        return row.output[start - before :]
    return [*(*row.request.prompt, *row.request.generated)[start:], *row.output]
