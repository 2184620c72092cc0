"""Decoding by length: rows of a batch are padded to the longest, and pay for its padding."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_engine.cache.kv_cache import BatchCache
from mlxmesh_engine.forward.decode import DecodeBatch, Launched, OnLeave
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.batching import Batching
from mlxmesh_engine.scheduling.request import SequenceKey
from mlxmesh_engine.scheduling.scheduler import ActiveSequence

_log = logging.getLogger(__name__)

# Below the first, padding costs less than a second pass through the model.
_LENGTHS = (1024, 4096, 16384, 65536)


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """One step of every group."""

    groups: tuple[Launched, ...]

    @property
    def rows(self) -> list[ActiveSequence]:
        return [row for group in self.groups for row in group.rows]

    def read(self) -> list[int]:
        """Waits for the computation; a token for each of `rows`."""
        return [token for group in self.groups for token in group.read()]


class DecodeGroups:
    """One batch for each class of length; a row stays in the one that its prompt put it into.

    A row that is isolated, or whose model cannot be batched, has a batch of its own.
    """

    def __init__(self, loaded: LoadedModel, *, on_leave: OnLeave) -> None:
        self._loaded = loaded
        self._on_leave = on_leave
        self._batches: dict[_Group, DecodeBatch] = {}
        self._failed: list[ActiveSequence] = []

    @property
    def kv_bytes(self) -> int:
        return sum(batch.kv_bytes for batch in self._batches.values())

    def join(self, actives: Sequence[ActiveSequence], cache: BatchCache) -> None:
        """Takes over `cache`, which holds all of each row's tokens but the last."""
        group = self._group_of(actives)
        if group not in self._batches:
            self._batches[group] = DecodeBatch(self._loaded, on_leave=self._on_leave)
        try:
            self._batches[group].join(actives, cache)
        except Exception:  # noqa: BLE001 - MLX raises what it likes
            self._drop_failed(group, joining=actives)

    def drop_finished(self) -> None:
        """Lets go of rows that ended or whose last token is already being computed."""
        for group, batch in list(self._batches.items()):
            batch.drop_finished()
            if not len(batch):
                del self._batches[group]

    def launch(self) -> LaunchedStep | None:
        """Starts one step for every row, but for those of a batch that fails: see `take_failed`."""
        self.drop_finished()
        launched = [self._launch(group) for group in list(self._batches)]
        groups = tuple(group for group in launched if group is not None)
        return LaunchedStep(groups) if groups else None

    def take_failed(self) -> list[ActiveSequence]:
        """Rows whose batch could not be computed and is gone; each is told of once."""
        failed, self._failed = self._failed, []
        return failed

    def _launch(self, group: "_Group") -> Launched | None:
        try:
            return self._batches[group].launch()
        except Exception:  # noqa: BLE001 - MLX raises what it likes
            self._drop_failed(group)
            return None

    def _drop_failed(self, group: "_Group", joining: Sequence[ActiveSequence] = ()) -> None:
        """Some layers' caches may have gone on and others not, so nothing of it can be kept."""
        _log.exception("a batch of %d sequences failed", len(self._batches[group]))
        rows = [*self._batches.pop(group).rows, *joining]
        # One that was joining may be among the rows already.
        self._failed += dict.fromkeys(rows)

    def _group_of(self, actives: Sequence[ActiveSequence]) -> "_Group":
        if self._loaded.batching is Batching.ALONE or actives[0].isolated:
            return actives[0].key
        longest = max(active.prefill_tokens for active in actives)
        return sum(longest > length for length in _LENGTHS)


_Group = int | SequenceKey
