"""The prefix cache of an engine: keys and values, or states, for prompts with a common prefix."""

import logging
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Protocol

from mlxmesh_engine.cache.kv_cache import RowsCache, StoredRow
from mlxmesh_engine.cache.prefix_cache import BLOCK_TOKENS, PrefixCache
from mlxmesh_engine.cache.row_state import RowState
from mlxmesh_engine.cache.whole_prompts import MIN_TOKENS, WholePrompts, digests
from mlxmesh_engine.cpu.cache import HostCache
from mlxmesh_engine.prefixes.codecs import (
    CachedTokensCodec,
    Codec,
    RowStateCodec,
    StoredLayersCodec,
)
from mlxmesh_engine.prefixes.directory import Name, PrefixDirectory
from mlxmesh_engine.prefixes.host_row import HostRow
from mlxmesh_engine.prefixes.tier import DiskTier, PendingRead

_log = logging.getLogger(__name__)


class PrefixStore(Protocol):
    """Used on the MLX thread. Equal tokens in different namespaces have nothing in common."""

    @property
    def nbytes(self) -> int: ...

    @property
    def version(self) -> int:
        """Changes with the content."""
        ...

    def count_cached(self, tokens: Sequence[int], namespace: bytes) -> int:
        """After how many of these tokens, from the first on, a row can begin."""
        ...

    def get(self, tokens: Sequence[int], namespace: bytes) -> Any:
        """What a row begins with after as many of these tokens as are cached; None if none are.

        Must not be changed in place.
        """
        ...

    def insert(self, tokens: Sequence[int], namespace: bytes, cache: RowsCache, row: int) -> None:
        """Copies what is not cached yet from a row of `cache` that holds exactly these tokens."""
        ...

    def cut(self, tokens: Sequence[int], namespace: bytes) -> int | None:
        """After how many tokens a prefill should pause for an `insert`; None: not before its end.

        tokens: all that are to be prefilled.
        """
        ...

    def read(self, tokens: Sequence[int], namespace: bytes) -> PendingRead | None:
        """Starts to read from disk what is not cached of these tokens; None: nothing is there."""
        ...

    def flush(self, *, idle: bool) -> None:
        """Call it after each step: goes on to write what was inserted to disk, if there is one."""
        ...


def open_prefix_store(
    empty: RowsCache, capacity_bytes: int, directory: PrefixDirectory | None = None
) -> PrefixStore:
    """The store for a model's caches, of which `empty` is one; capacity 0 stores nothing."""
    if capacity_bytes == 0:
        return NoPrefixes()
    disk = DiskTier(directory, codec_for(empty)) if directory is not None else None
    if empty.divisible:
        return BlockStore(capacity_bytes, disk)
    if empty.has_states:
        _log.info("the prefix cache stores whole prompts: this model's caches cannot be cut")
        return StateStore(capacity_bytes, disk)
    _log.info("the prefix cache is off: this model has caches of its own")
    return NoPrefixes()


def codec_for(empty: RowsCache) -> Codec:
    """How what is stored of such caches is written to disk."""
    if isinstance(empty, HostCache):
        return CachedTokensCodec()
    return StoredLayersCodec() if empty.divisible else RowStateCodec()


class BlockStore:
    """For models whose tokens have keys and values of their own: any whole blocks are reused."""

    def __init__(self, capacity_bytes: int, disk: DiskTier | None = None) -> None:
        self._cache: PrefixCache[StoredRow] = PrefixCache(capacity_bytes)
        self._disk = disk

    @property
    def nbytes(self) -> int:
        return self._cache.nbytes

    @property
    def version(self) -> int:
        return self._cache.version

    def count_cached(self, tokens: Sequence[int], namespace: bytes) -> int:
        return sum(piece.tokens for piece in self._cache.find(tokens, namespace))

    def get(self, tokens: Sequence[int], namespace: bytes) -> StoredRow | None:
        pieces = self._cache.find(tokens, namespace)
        if not pieces:
            return None
        first, *later = [piece.value.truncated(piece.tokens) for piece in pieces]
        return first.concatenated(later)

    def insert(self, tokens: Sequence[int], namespace: bytes, cache: RowsCache, row: int) -> None:
        names = self._names(tokens, namespace)

        def extract(start: int, stop: int) -> StoredRow:
            stored = cache.copy_row(row, start - len(tokens), stop - len(tokens))
            if self._disk is not None:
                blocks = slice(start // BLOCK_TOKENS, stop // BLOCK_TOKENS)
                self._disk.offer(stored, names[blocks], BLOCK_TOKENS)
            return stored

        if tokens:
            token_bytes = cache.token_bytes
            self._cache.insert(tokens, namespace, token_bytes=token_bytes, extract=extract)
        if self._disk is not None:
            self._disk.touch(digest for digest, _ in names)

    def cut(self, tokens: Sequence[int], namespace: bytes) -> int | None:
        return None

    def read(self, tokens: Sequence[int], namespace: bytes) -> PendingRead | None:
        disk = self._disk
        if disk is None:
            return None
        start = self.count_cached(tokens, namespace)
        later = self._names(tokens, namespace)[start // BLOCK_TOKENS :]
        wanted = [*takewhile(lambda name: name[0] in disk, later)]

        def add(row: HostRow) -> None:
            count = row.tokens
            if self.count_cached(tokens[:start], namespace) < start:
                return  # evicted while the rest was read
            self._cache.insert(
                tokens[: start + count],
                namespace,
                token_bytes=row.nbytes // count,
                extract=lambda first, stop: disk.restored(row.part(first - start, stop - start)),
            )

        return disk.read(wanted, add) if wanted else None

    def flush(self, *, idle: bool) -> None:
        if self._disk is not None:
            self._disk.flush(idle=idle)

    def _names(self, tokens: Sequence[int], namespace: bytes) -> list[Name]:
        """Of the files of all whole blocks; none without a disk."""
        if self._disk is None:
            return []
        lengths = range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS)
        return [*zip(digests(tokens, namespace, lengths), lengths, strict=True)]


class StateStore:
    """For the others: whole states, after exactly the tokens that they have seen."""

    def __init__(self, capacity_bytes: int, disk: DiskTier | None = None) -> None:
        self._cache: WholePrompts[RowState] = WholePrompts(capacity_bytes)
        self._disk = disk

    @property
    def nbytes(self) -> int:
        return self._cache.nbytes

    @property
    def version(self) -> int:
        return self._cache.version

    def count_cached(self, tokens: Sequence[int], namespace: bytes) -> int:
        found = self._cache.find(tokens, namespace)
        return found[0] if found else 0

    def get(self, tokens: Sequence[int], namespace: bytes) -> RowState | None:
        found = self._cache.find(tokens, namespace)
        return found[1] if found else None

    def insert(self, tokens: Sequence[int], namespace: bytes, cache: RowsCache, row: int) -> None:
        if len(tokens) < MIN_TOKENS:
            return
        self._cache.remember(tokens, namespace)
        if self._cache.contains(tokens, namespace):
            return
        state = cache.copy_state(row, max_bytes=self._cache.capacity_bytes)
        if state is None:
            return
        self._cache.insert(tokens, namespace, state, state.nbytes)
        if self._disk is not None:
            (digest,) = digests(tokens, namespace, [len(tokens)])
            self._disk.offer(state, [(digest, len(tokens))])
            self._disk.touch([digest])

    def cut(self, tokens: Sequence[int], namespace: bytes) -> int | None:
        """Where it parts from an earlier prompt, if that saves later ones a block or more."""
        branch = self._cache.branch(tokens, namespace)
        gained = branch - self.count_cached(tokens, namespace)
        return branch if gained >= MIN_TOKENS and branch < len(tokens) else None

    def read(self, tokens: Sequence[int], namespace: bytes) -> PendingRead | None:
        disk = self._disk
        if disk is None:
            return None
        cached = self.count_cached(tokens, namespace)
        lengths = [each for each in disk.lengths() if cached < each <= len(tokens)]
        named = zip(digests(tokens, namespace, lengths), lengths, strict=True)
        wanted = [name for name in named if name[0] in disk][-1:]

        def add(row: HostRow) -> None:
            state = disk.restored(row)
            prompt = tokens[: wanted[0][1]]
            self._cache.insert(prompt, namespace, state, state.nbytes)
            self._cache.remember(prompt, namespace)

        return disk.read(wanted, add) if wanted else None

    def flush(self, *, idle: bool) -> None:
        if self._disk is not None:
            self._disk.flush(idle=idle)


class NoPrefixes:
    """Stores nothing."""

    nbytes = 0
    version = 0

    def count_cached(self, tokens: Sequence[int], namespace: bytes) -> int:
        return 0

    def get(self, tokens: Sequence[int], namespace: bytes) -> None:
        return None

    def insert(self, tokens: Sequence[int], namespace: bytes, cache: RowsCache, row: int) -> None:
        pass

    def cut(self, tokens: Sequence[int], namespace: bytes) -> int | None:
        return None

    def read(self, tokens: Sequence[int], namespace: bytes) -> None:
        return None

    def flush(self, *, idle: bool) -> None:
        pass
