"""A batch of decoding sequences: one new token for each per step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlxmesh_engine.cache.kv_cache import RowsCache
from mlxmesh_engine.constraints.masks import MaskThreads
from mlxmesh_engine.evaluation import evaluate_async, token_ids
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.forward.masked_decode import decode_masked
from mlxmesh_engine.forward.verification import Verification, VerifiedBatch
from mlxmesh_engine.sampling.logprobs import BatchLogprobs, StepLogprobs
from mlxmesh_engine.sampling.sampler import BatchSampler
from mlxmesh_engine.scheduling.request import Logprobs, SequenceKey
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.speculation.speculation import Proposals, Speculation
from mlxmesh_shared.errors import MeshError


@dataclass(frozen=True, slots=True)
class LaunchedBatch:
    """A decode step under computation; `tokens` has one token for each row."""

    rows: tuple[ActiveSequence, ...]
    tokens: mx.array
    logprobs: StepLogprobs | None = None
    errors: Mapping[SequenceKey, MeshError] = field(default_factory=dict[SequenceKey, MeshError])
    """Why rows cannot continue; their tokens have no meaning."""

    def read_logprobs(self) -> Sequence[Logprobs | None]:
        """Waits for the computation; returns those of each row that requested them."""
        return [None] * len(self.rows) if self.logprobs is None else self.logprobs.read()

    verified = False
    """Whether it may hold several tokens of a row, and is computed already."""

    def wait(self) -> list[tuple[int, ...]]:
        """Waits for the computation and returns the tokens of each row."""
        return [(token,) for token in token_ids(self.tokens)]


OnLeave = Callable[[ActiveSequence, RowsCache, int], None]
"""Called for a row that leaves the batch, while it is still in the cache."""


class DecodeBatch:
    """Rows join and leave between steps; a step is launched without waiting for the previous one.

    A row's next input is the token that the previous step sampled, which stays on the device.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        masks: MaskThreads,
        *,
        on_leave: OnLeave,
        speculation: Speculation,
    ) -> None:
        self._model = loaded.model
        self._masks = masks
        self._verification = Verification(loaded.model, loaded.batching, masks)
        self._speculation = speculation
        self._on_leave = on_leave
        self._sampler = BatchSampler(loaded.vocab_size)
        self._logprobs = BatchLogprobs()
        self._rows: list[ActiveSequence] = []
        self._cache: RowsCache | None = None
        self._inputs = mx.zeros((0,), mx.uint32)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> tuple[ActiveSequence, ...]:
        return tuple(self._rows)

    @property
    def background(self) -> bool:
        """Whether its rows, all of one kind, are background sequences."""
        return bool(self._rows) and self._rows[0].request.background

    @property
    def kv_bytes(self) -> int:
        return self._cache.nbytes if self._cache else 0

    def join(self, actives: Sequence[ActiveSequence], cache: RowsCache) -> None:
        """Adds rows and takes ownership of `cache`, which holds each row's tokens but the last."""
        if self._cache is None:
            self._cache = cache
        else:
            self._cache.extend(cache)
        last = mx.array([active.tokens[-1] for active in actives], mx.uint32)
        self._inputs = mx.concatenate([self._inputs, last])
        self._rows += actives
        self._sampler.join(actives)
        self._logprobs.join(actives)

    def drop_finished(self) -> None:
        """Removes rows that ended or whose last token is already being computed."""
        self._keep([index for index, row in enumerate(self._rows) if _needs_token(row)])

    def remove(self, active: ActiveSequence) -> None:
        """Removes a row; no step may be running for it."""
        self._keep([index for index, row in enumerate(self._rows) if row is not active])

    def _keep(self, keep: list[int]) -> None:
        if len(keep) == len(self._rows):
            return
        kept = set(keep)
        for index, row in enumerate(self._rows):
            if self._cache is not None and index not in kept:
                self._on_leave(row, self._cache, index)
        self._rows = [self._rows[index] for index in keep]
        self._inputs = self._inputs[mx.array(keep, mx.uint32)]
        self._sampler.filter(keep)
        self._logprobs.filter(keep)
        if not keep:
            self._cache = None
        elif self._cache is not None:
            self._cache.filter(keep)

    @property
    def may_propose(self) -> bool:
        """Whether the tokens of the step under way should be known before the next is launched."""
        return (
            self._cache is not None
            and self._cache.cuttable
            and self._speculation.may_propose(self._rows)
        )

    def launch(self) -> "LaunchedBatch | VerifiedBatch | None":
        """Launches one step for every row. Raises: Interrupted; then nothing has changed.

        Proposals are verified at once, so a step with some is computed when this returns.
        """
        self.drop_finished()
        if self._cache is None or not self._rows:
            return None
        self._model.adapters.select([row.slot for row in self._rows])
        proposals = self._proposals(self._cache)
        if any(proposals):
            return self._verify(proposals, self._cache)
        decoded = decode_masked(self._model, self._inputs, self._cache, self._rows, self._masks)
        positions = [row.launched for row in self._rows]
        tokens = self._sampler.sample(decoded.scores, positions, decoded.masks)
        logprobs = self._logprobs.compute(decoded.scores, tokens)
        evaluate_async([tokens, *self._sampler.arrays(), *(logprobs.arrays() if logprobs else ())])
        self._inputs = tokens
        for row in self._rows:
            row.launched += 1
        return LaunchedBatch(tuple(self._rows), tokens, logprobs, decoded.errors)

    def _proposals(self, cache: RowsCache) -> Proposals:
        """Empty if there is none, or if a row's last token is not known yet."""
        if not cache.cuttable or any(row.launched > row.generated_tokens for row in self._rows):
            return ()
        return self._speculation.propose(self._rows, self._sampler)

    def _verify(self, proposals: Proposals, cache: RowsCache) -> VerifiedBatch:
        last = [row.output[-1] if row.output else row.tokens[-1] for row in self._rows]
        verified = self._verification.run(self._rows, last, proposals, cache, self._sampler)
        self._inputs = mx.array([tokens[-1] for tokens in verified.tokens], mx.uint32)
        evaluate_async([self._inputs, *self._sampler.arrays()])
        for row, tokens, proposed, accepted in zip(
            self._rows, verified.tokens, verified.proposed, verified.accepted, strict=True
        ):
            row.launched += len(tokens)
            row.proposed_tokens += proposed
            row.accepted_tokens += accepted
            if proposed:
                self._speculation.record(row, proposed=proposed, accepted=accepted)
        return verified


def _needs_token(row: ActiveSequence) -> bool:
    return not row.ended and row.launched < row.request.max_tokens
