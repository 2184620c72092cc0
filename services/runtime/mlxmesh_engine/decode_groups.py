"""Decoding by length: rows of a batch are padded to the longest, and pay for its padding."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from mlxmesh_engine.decode import DecodeBatch, Launched, OnLeave
from mlxmesh_engine.kv_cache import BatchCache
from mlxmesh_engine.loader import LoadedModel
from mlxmesh_engine.scheduler import Active

# Below the first, padding costs less than a second pass through the model.
_LENGTHS = (1024, 4096, 16384, 65536)


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """One step of every group."""

    groups: tuple[Launched, ...]

    @property
    def rows(self) -> list[Active]:
        return [row for group in self.groups for row in group.rows]

    def read(self) -> list[int]:
        """Waits for the computation; a token for each of `rows`."""
        return [token for group in self.groups for token in group.read()]


class DecodeGroups:
    """One batch for each class of length; a row stays in the one that its prompt put it into."""

    def __init__(self, loaded: LoadedModel, *, on_leave: OnLeave) -> None:
        self._loaded = loaded
        self._on_leave = on_leave
        self._batches: dict[int, DecodeBatch] = {}

    @property
    def kv_bytes(self) -> int:
        return sum(batch.kv_bytes for batch in self._batches.values())

    def join(self, actives: Seq[Active], cache: BatchCache) -> None:
        """Takes over `cache`, which holds all of each row's tokens but the last."""
        longest = max(active.prefill_tokens for active in actives)
        group = sum(longest > length for length in _LENGTHS)
        if group not in self._batches:
            self._batches[group] = DecodeBatch(self._loaded, on_leave=self._on_leave)
        self._batches[group].join(actives, cache)

    def drop_finished(self) -> None:
        """Lets go of rows that ended or whose last token is already being computed."""
        for batch in self._batches.values():
            batch.drop_finished()

    def launch(self) -> LaunchedStep | None:
        """Starts one step for every row."""
        launched = [batch.launch() for batch in self._batches.values()]
        groups = tuple(group for group in launched if group is not None)
        return LaunchedStep(groups) if groups else None
