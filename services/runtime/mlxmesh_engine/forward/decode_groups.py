"""Groups decoding sequences by length: padding to the longest row costs every row of a batch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_engine.cache.kv_cache import Batching, RowsCache
from mlxmesh_engine.constraints.masks import MaskThreads
from mlxmesh_engine.cpu.forward import Interrupted
from mlxmesh_engine.forward.decode import DecodeBatch, LaunchedBatch, OnLeave
from mlxmesh_engine.forward.interruption import Interruption
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.forward.verification import VerifiedBatch
from mlxmesh_engine.scheduling.request import Logprobs, SequenceKey
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.speculation.speculation import Speculation
from mlxmesh_shared.errors import MeshError

_log = logging.getLogger(__name__)

# Up to the first length, padding costs less than a second pass through the model.
_LENGTHS = (1024, 4096, 16384, 65536)


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """One decode step of all groups."""

    groups: tuple[LaunchedBatch | VerifiedBatch, ...]

    @property
    def verified(self) -> bool:
        """Whether proposals were verified in it: it is computed already, at least in part."""
        return any(group.verified for group in self.groups)

    @property
    def rows(self) -> list[ActiveSequence]:
        return [row for group in self.groups for row in group.rows]

    def error_of(self, active: ActiveSequence) -> MeshError | None:
        """Why a row has no token in this step."""
        errors = (group.errors.get(active.key) for group in self.groups if group.errors)
        return next(filter(None, errors), None)

    def wait(self) -> list[tuple[int, ...]]:
        """Waits for the computation; returns the tokens of each of `rows`."""
        return [tokens for group in self.groups for tokens in group.wait()]

    def read_logprobs(self) -> list[Logprobs | None]:
        """Waits for the computation; returns those of each of `rows`, None if not requested."""
        return [each for group in self.groups for each in group.read_logprobs()]


class DecodeGroups:
    """One batch for each class of lengths; the prompt's length determines a row's batch for good.

    An isolated row, or a row of a model that cannot be batched, has its own batch. Background rows
    have batches of their own, so that they pause where they are.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        interruption: Interruption,
        *,
        on_leave: OnLeave,
        speculation: Speculation,
    ) -> None:
        """interruption: of steps of background rows."""
        self._loaded = loaded
        self._speculation = speculation
        self._interruption = interruption
        self._on_leave = on_leave
        self._masks = MaskThreads(loaded.vocab_size)
        self._batches: dict[_Group, DecodeBatch] = {}
        self._failed: list[ActiveSequence] = []

    @property
    def kv_bytes(self) -> int:
        return sum(batch.kv_bytes for batch in self._batches.values())

    def join(self, actives: Sequence[ActiveSequence], cache: RowsCache) -> None:
        """Adds rows and takes ownership of `cache`, which holds each row's tokens but the last."""
        group = self._group_of(actives)
        if group not in self._batches:
            self._batches[group] = DecodeBatch(
                self._loaded, self._masks, on_leave=self._on_leave, speculation=self._speculation
            )
        try:
            self._batches[group].join(actives, cache)
        except Exception:  # noqa: BLE001 - MLX may raise anything
            self._drop_failed(group, joining=actives)

    def drop_finished(self) -> None:
        """Removes rows that ended or whose last token is already being computed."""
        for group, batch in list(self._batches.items()):
            batch.drop_finished()
            if not len(batch):
                del self._batches[group]

    def remove(self, active: ActiveSequence) -> None:
        """Removes a row, if it is in a batch; no step may be running for it."""
        for group, batch in list(self._batches.items()):
            if active in batch.rows:
                batch.remove(active)
                if not len(batch):
                    del self._batches[group]

    @property
    def may_propose(self) -> bool:
        """Whether the tokens of the step under way should be known before the next is launched."""
        return any(batch.may_propose for batch in self._batches.values())

    def launch(self, *, background: bool = True) -> LaunchedStep | None:
        """Launches one step for every row; `pop_failed` returns the rows of batches that fail.

        background: whether background rows take part. They do not if their step is interrupted.
        """
        self.drop_finished()
        batches = self._batches.items()
        launched = [self._launch(group) for group, batch in list(batches) if not batch.background]
        if background:
            with self._interruption.allowed():
                for group in [group for group, batch in batches if batch.background]:
                    launched.append(self._launch(group))
        groups = tuple(group for group in launched if group is not None)
        return LaunchedStep(groups) if groups else None

    def pop_failed(self) -> list[ActiveSequence]:
        """Returns once each row whose batch failed and was dropped."""
        failed, self._failed = self._failed, []
        return failed

    def _launch(self, group: "_Group") -> LaunchedBatch | VerifiedBatch | None:
        try:
            return self._batches[group].launch()
        except Interrupted:
            raise
        except Exception:  # noqa: BLE001 - MLX may raise anything
            self._drop_failed(group)
            return None

    def _drop_failed(self, group: "_Group", joining: Sequence[ActiveSequence] = ()) -> None:
        """Drops the whole batch: some layers' caches may have advanced and others not."""
        _log.exception("a batch of %d sequences failed", len(self._batches[group]))
        rows = [*self._batches.pop(group).rows, *joining]
        # A joining row may be among the rows already.
        self._failed += dict.fromkeys(rows)

    def _group_of(self, actives: Sequence[ActiveSequence]) -> "_Group":
        if self._loaded.batching is Batching.ALONE or actives[0].isolated:
            return actives[0].key
        number = 0
        if self._loaded.batching is not Batching.PACKED:
            longest = max(active.prefill_tokens for active in actives)
            number = sum(longest > length for length in _LENGTHS)
        return -1 - number if actives[0].request.background else number


_Group = int | SequenceKey


@dataclass(frozen=True, slots=True)
class DecodedTokens:
    """How many rows and tokens a step had, and how many of these were proposed."""

    rows: int = 0
    tokens: int = 0
    proposed: int = 0
    accepted: int = 0

    @classmethod
    def of(cls, launched: LaunchedStep | None) -> "DecodedTokens":
        """Of a step that may be under way: its rows are known, and what was verified."""
        groups = launched.groups if launched is not None else ()
        verified = [group for group in groups if isinstance(group, VerifiedBatch)]
        rows = sum(len(group.rows) for group in groups)
        extra = sum(len(tokens) - 1 for group in verified for tokens in group.tokens)
        return cls(
            rows,
            rows + extra,
            sum(sum(group.proposed) for group in verified),
            sum(sum(group.accepted) for group in verified),
        )
