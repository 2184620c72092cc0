"""Keys and values of what was read before, for prompts that begin alike. On the MLX thread."""

import logging
from collections.abc import Sequence

from mlxmesh_engine.cache.kv_cache import BatchCache, RowCache
from mlxmesh_engine.cache.prefix_cache import PrefixCache
from mlxmesh_engine.evaluation import start_computing
from mlxmesh_engine.scheduling.batching import Batching

_log = logging.getLogger(__name__)


class PrefixStore:
    """Empty for ever where capacity_bytes is 0 or the model's caches cannot be cut at a token."""

    def __init__(self, model: object, batching: Batching, capacity_bytes: int) -> None:
        self._cache: PrefixCache[RowCache] | None = None
        if capacity_bytes == 0:
            return
        if BatchCache.empty(model, 1, batching).divisible:
            self._cache = PrefixCache(capacity_bytes)
        else:
            _log.info("this model forgets tokens as it reads, so no prefix is kept for reuse")

    @property
    def nbytes(self) -> int:
        return self._cache.nbytes if self._cache else 0

    @property
    def version(self) -> int:
        """Changes with what is kept."""
        return self._cache.version if self._cache else 0

    def known(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, need not be read."""
        return sum(piece.tokens for piece in self._cache.find(tokens)) if self._cache else 0

    def take(self, tokens: Sequence[int]) -> RowCache | None:
        """What is known of these tokens; not to be changed in place."""
        pieces = self._cache.find(tokens) if self._cache else []
        if not pieces:
            return None
        by_piece = [[layer.first(piece.tokens) for layer in piece.kept] for piece in pieces]
        return [of_layer[0].joined(of_layer[1:]) for of_layer in zip(*by_piece, strict=True)]

    def keep(self, tokens: Sequence[int], cache: BatchCache, row: int) -> None:
        """Copies a row of `cache` that holds exactly these tokens, as far as they are not known."""
        if self._cache is None or not tokens:
            return

        def extract(start: int, stop: int) -> RowCache:
            copy = cache.copy_row(row, start - len(tokens), stop - len(tokens))
            # At once: until then the copy would hold all rows in memory.
            start_computing([array for layer in copy for array in (layer.keys, layer.values)])
            return copy

        self._cache.keep(tokens, token_bytes=cache.token_bytes, extract=extract)
