"""Rank 0's view of a group: a forward pass whose every operation the other ranks repeat."""

import itertools
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from mlxmesh_engine.adapters.layers import AdaptableLayers
from mlxmesh_engine.adapters.none import NoAdapters
from mlxmesh_engine.cache.kv_cache import BatchCache
from mlxmesh_engine.groups import operations
from mlxmesh_engine.groups.operations import Operation, Send
from mlxmesh_engine.groups.ring_forward import RingForward
from mlxmesh_engine.scheduling.images import PromptImages
from mlxmesh_shared.errors import IllegalState


class _Numbers:
    """Gives numbers to what all ranks hold, and frees them there when rank 0 drops it."""

    def __init__(self, send: Send, failed: Callable[[BaseException], None]) -> None:
        self._send = send
        self._failed = failed
        self._next = itertools.count(1)
        self._dropped: list[int] = []

    def give(self, holder: object) -> int:
        number = next(self._next)
        weakref.finalize(holder, self._dropped.append, number).atexit = False
        return number

    def send(self, operation: Operation) -> None:
        if self._dropped:
            dropped, self._dropped[:] = tuple(self._dropped), ()
            self._send(operations.Free(dropped))
        self._send(operation)

    @contextmanager
    def all_or_none(self) -> Generator[None]:
        """The other ranks do not know of an error here, so it must end the group."""
        try:
            yield
        except Exception as error:
            self._failed(error)
            raise


class GroupRow:
    """What is stored of one sequence, on every rank; implements `StoredRow`."""

    def __init__(self, stored: Any, numbers: _Numbers) -> None:
        self.stored = stored
        self._numbers = numbers
        self.number = numbers.give(self)

    @property
    def nbytes(self) -> int:
        """Of a whole state, at rank 0."""
        return self.stored.nbytes

    def truncated(self, tokens: int) -> "GroupRow":
        row = GroupRow(self.stored.truncated(tokens), self._numbers)
        self._numbers.send(operations.TruncateRow(self.number, tokens, row.number))
        return row

    def concatenated(self, later: "Sequence[GroupRow]") -> "GroupRow":
        if not later:
            return self
        stored = self.stored.concatenated([row.stored for row in later])
        row = GroupRow(stored, self._numbers)
        rows = (self.number, *(each.number for each in later))
        self._numbers.send(operations.ConcatenateRows(rows, row.number))
        return row


class GroupCache:
    """A cache that every rank has its part of; implements `RowsCache`. Sizes are those here."""

    cuttable = False

    def __init__(self, own: BatchCache, numbers: _Numbers) -> None:
        self.own = own
        self._numbers = numbers
        self.number = numbers.give(self)

    @property
    def rows(self) -> int:
        return self.own.rows

    @property
    def nbytes(self) -> int:
        return self.own.nbytes

    @property
    def token_bytes(self) -> int:
        return self.own.token_bytes

    @property
    def divisible(self) -> bool:
        return self.own.divisible

    @property
    def has_states(self) -> bool:
        return self.own.has_states

    def copy_row(self, row: int, start: int, stop: int) -> GroupRow:
        with self._numbers.all_or_none():
            stored = GroupRow(self.own.copy_row(row, start, stop), self._numbers)
            self._numbers.send(operations.StoreTokens(self.number, row, start, stop, stored.number))
            return stored

    def copy_state(self, row: int, *, max_bytes: int) -> GroupRow | None:
        with self._numbers.all_or_none():
            state = self.own.copy_state(row, max_bytes=max_bytes)
            if state is None:
                return None
            stored = GroupRow(state, self._numbers)
            self._numbers.send(operations.StoreState(self.number, row, stored.number))
            return stored

    def copy_rows(self, rows: Sequence[int]) -> "GroupCache":
        with self._numbers.all_or_none():
            copy = GroupCache(self.own.copy_rows(rows), self._numbers)
            self._numbers.send(operations.CopyRows(self.number, tuple(rows), copy.number))
            return copy

    def extend(self, other: "GroupCache") -> None:
        with self._numbers.all_or_none():
            self._numbers.send(operations.ExtendCache(self.number, other.number))
            self.own.extend(other.own)

    def filter(self, rows: Sequence[int]) -> None:
        with self._numbers.all_or_none():
            self._numbers.send(operations.FilterCache(self.number, tuple(rows)))
            self.own.filter(rows)

    def cut(self, counts: Sequence[int]) -> None:
        raise IllegalState("the caches of a group are never cut: it proposes no tokens")


class GroupForward:
    """Implements `Forward`: tells the other ranks of each operation before it computes its part."""

    asynchronous = True
    interruptible = False

    def __init__(
        self, forward: RingForward, send: Send, failed: Callable[[BaseException], None]
    ) -> None:
        """failed: called with an error of an operation, which the other ranks may not have."""
        self._forward = forward
        self._numbers = _Numbers(send, failed)
        self.adapters: AdaptableLayers = NoAdapters("a group of ranks")

    def interrupt_when(self, wanted: Callable[[], bool] | None) -> None:
        """A launched graph cannot be stopped."""

    def new_cache(
        self,
        prefixes: Sequence[GroupRow | None],
        images: Sequence[PromptImages | None] = (),
    ) -> GroupCache:
        with self._numbers.all_or_none():
            own = self._forward.new_cache([row.stored if row else None for row in prefixes])
            cache = GroupCache(own, self._numbers)
            rows = tuple(row.number if row else 0 for row in prefixes)
            self._numbers.send(operations.NewCache(cache.number, rows))
            return cache

    def prefill(self, rows: Sequence[Sequence[int]], cache: GroupCache) -> None:
        with self._numbers.all_or_none():
            self._numbers.send(operations.PrefillRows(cache.number, _tuples(rows)))
            self._forward.prefill(rows, cache.own)

    def decode(self, inputs: mx.array, cache: GroupCache) -> mx.array:
        with self._numbers.all_or_none():
            self._numbers.send(operations.DecodeRows(cache.number))
            return self._forward.decode(inputs, cache.own)

    def scores(self, rows: Sequence[Sequence[int]], cache: GroupCache) -> list[mx.array]:
        with self._numbers.all_or_none():
            self._numbers.send(operations.ScoreRows(cache.number, _tuples(rows)))
            return self._forward.scores(rows, cache.own)

    def decode_several(self, rows: Sequence[Sequence[int]], cache: GroupCache) -> mx.array:
        raise IllegalState("a group verifies no proposals: it proposes no tokens")


def _tuples(rows: Sequence[Sequence[int]]) -> operations.Rows:
    return tuple(tuple(row) for row in rows)
