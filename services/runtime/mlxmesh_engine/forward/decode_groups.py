"""Groups decoding sequences by length: padding to the longest row costs every row of a batch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_engine.cache.kv_cache import Batching, RowsCache
from mlxmesh_engine.constraints.masks import MaskThreads
from mlxmesh_engine.forward.decode import DecodeBatch, LaunchedBatch, OnLeave
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.request import Logprobs, SequenceKey
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_shared.errors import MeshError

_log = logging.getLogger(__name__)

# Up to the first length, padding costs less than a second pass through the model.
_LENGTHS = (1024, 4096, 16384, 65536)


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """One decode step of all groups."""

    groups: tuple[LaunchedBatch, ...]

    @property
    def rows(self) -> list[ActiveSequence]:
        return [row for group in self.groups for row in group.rows]

    def error_of(self, active: ActiveSequence) -> MeshError | None:
        """Why a row has no token in this step."""
        errors = (group.errors.get(active.key) for group in self.groups if group.errors)
        return next(filter(None, errors), None)

    def wait(self) -> list[int]:
        """Waits for the computation; returns a token for each of `rows`."""
        return [token for group in self.groups for token in group.wait()]

    def read_logprobs(self) -> list[Logprobs | None]:
        """Waits for the computation; returns those of each of `rows`, None if not requested."""
        return [each for group in self.groups for each in group.read_logprobs()]


class DecodeGroups:
    """One batch for each class of lengths; the prompt's length determines a row's batch for good.

    An isolated row, or a row of a model that cannot be batched, has its own batch.
    """

    def __init__(self, loaded: LoadedModel, *, on_leave: OnLeave) -> None:
        self._loaded = loaded
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
            self._batches[group] = DecodeBatch(self._loaded, self._masks, on_leave=self._on_leave)
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

    def launch(self) -> LaunchedStep | None:
        """Launches one step for every row; `pop_failed` returns the rows of batches that fail."""
        self.drop_finished()
        launched = [self._launch(group) for group in list(self._batches)]
        groups = tuple(group for group in launched if group is not None)
        return LaunchedStep(groups) if groups else None

    def pop_failed(self) -> list[ActiveSequence]:
        """Returns once each row whose batch failed and was dropped."""
        failed, self._failed = self._failed, []
        return failed

    def _launch(self, group: "_Group") -> LaunchedBatch | None:
        try:
            return self._batches[group].launch()
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
        if self._loaded.batching is Batching.PACKED:
            return 0
        longest = max(active.prefill_tokens for active in actives)
        return sum(longest > length for length in _LENGTHS)


_Group = int | SequenceKey
