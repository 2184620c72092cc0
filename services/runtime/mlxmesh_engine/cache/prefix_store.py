"""The prefix cache of an engine: keys and values for prompts with a common prefix."""

import logging
from collections.abc import Sequence

from mlxmesh_engine.cache.kv_cache import RowsCache, StoredRow
from mlxmesh_engine.cache.prefix_cache import PrefixCache

_log = logging.getLogger(__name__)


class PrefixStore:
    """Used on the MLX thread. Disabled if capacity_bytes is 0 or the caches cannot be cut.

    empty: any cache of the model.
    """

    def __init__(self, empty: RowsCache, capacity_bytes: int) -> None:
        self._cache: PrefixCache[StoredRow] | None = None
        if capacity_bytes == 0:
            return
        if empty.divisible:
            self._cache = PrefixCache(capacity_bytes)
        else:
            _log.info("the prefix cache is off: this model's caches cannot be cut at a token")

    @property
    def nbytes(self) -> int:
        return self._cache.nbytes if self._cache else 0

    @property
    def version(self) -> int:
        """Changes with the content."""
        return self._cache.version if self._cache else 0

    def count_cached(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, are cached."""
        return sum(piece.tokens for piece in self._cache.find(tokens)) if self._cache else 0

    def get(self, tokens: Sequence[int]) -> StoredRow | None:
        """The cached prefix of these tokens; must not be changed in place."""
        pieces = self._cache.find(tokens) if self._cache else []
        if not pieces:
            return None
        first, *later = [piece.value.truncated(piece.tokens) for piece in pieces]
        return first.concatenated(later)

    def insert(self, tokens: Sequence[int], cache: RowsCache, row: int) -> None:
        """Copies what is not cached yet from a row of `cache` that holds exactly these tokens."""
        if self._cache is None or not tokens:
            return

        def extract(start: int, stop: int) -> StoredRow:
            return cache.copy_row(row, start - len(tokens), stop - len(tokens))

        self._cache.insert(tokens, token_bytes=cache.token_bytes, extract=extract)
