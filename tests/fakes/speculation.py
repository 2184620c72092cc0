"""Sources of proposals that propose whenever they can, for tests that compare outputs."""

from collections.abc import Mapping, Sequence

import numpy as np

from mlxmesh_engine.forward.draft import DraftSpeculation
from mlxmesh_engine.sampling.sampler import BatchSampler
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.speculation.speculation import NgramSpeculation, Proposals, most_tokens


class ForcedSpeculation:
    """Proposes in every step, for background rows as well; counts what became of it."""

    kv_bytes = 0

    def __init__(self) -> None:
        self.proposed = 0
        self.accepted = 0

    def may_propose(self, rows: Sequence[ActiveSequence]) -> bool:
        return True

    def propose(self, rows: Sequence[ActiveSequence], sampler: BatchSampler) -> Proposals:
        return [self.proposal(row)[: most_tokens(row)] for row in rows]

    def proposal(self, row: ActiveSequence) -> tuple[int, ...]:
        raise NotImplementedError

    def record(self, row: ActiveSequence, *, proposed: int, accepted: int) -> None:
        self.proposed += proposed
        self.accepted += accepted

    def record_step(self, seconds: float, *, rows: int, proposed: int, accepted: int) -> None:
        """Proposes whatever it costs."""


class RandomSpeculation(ForcedSpeculation):
    """Proposes random tokens, up to six for each row, or none."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        super().__init__()
        self._vocab_size = vocab_size
        self._rng = np.random.default_rng(seed)

    def proposal(self, row: ActiveSequence) -> tuple[int, ...]:
        drawn = self._rng.integers(0, self._vocab_size, self._rng.integers(0, 7))
        return tuple(int(token) for token in drawn)


class KnownSpeculation(ForcedSpeculation):
    """Proposes the true continuations, with errors in between."""

    def __init__(
        self, outputs: Mapping[int, Sequence[int]], vocab_size: int, error_rate: float = 0.25
    ) -> None:
        """outputs: all generated tokens of each sequence, by its id."""
        super().__init__()
        self._outputs = outputs
        self._vocab_size = vocab_size
        self._error_rate = error_rate
        self._rng = np.random.default_rng(1)

    def proposal(self, row: ActiveSequence) -> tuple[int, ...]:
        known = self._outputs.get(row.key[1], ())
        start = row.generated_tokens
        true = known[start : start + int(self._rng.integers(0, 9))]
        return tuple(
            (token + 1) % self._vocab_size if self._rng.random() < self._error_rate else token
            for token in true
        )


class CheapNgrams(NgramSpeculation):
    """As if verification cost a tenth of a step for each token, whatever this machine measures."""

    def record_step(self, seconds: float, *, rows: int, proposed: int, accepted: int) -> None:
        seconds = 0.01 * (1 + 0.1 * proposed / rows)
        super().record_step(seconds, rows=rows, proposed=proposed, accepted=accepted)


class CheapDraft(DraftSpeculation):
    """As above."""

    def record_step(self, seconds: float, *, rows: int, proposed: int, accepted: int) -> None:
        seconds = 0.01 * (1 + 0.1 * proposed / rows)
        super().record_step(seconds, rows=rows, proposed=proposed, accepted=accepted)
