"""The adapters of one layer in all slots, and which tokens of a pass have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.adapters.layers import NO_ADAPTER
from mlxmesh_engine.cpu.products import Floats

Tokens = NDArray[np.intp]
# Up to so many values, starting a product takes as long as computing it.
_SMALL_MATRICES = 2**15
_MIN_SINGLES = 4


@dataclass(frozen=True, slots=True)
class Matrices:
    """Of one layer: A (inputs, rank), and B (rank, outputs) for some outputs of the product."""

    a: Floats
    b: Floats
    outputs: slice

    @property
    def is_large(self) -> bool:
        """Whether computing it takes longer than starting to."""
        return self.a.size + self.b.size > _SMALL_MATRICES

    @property
    def nbytes(self) -> int:
        """Small ones are in memory twice while they decode."""
        return (1 if self.is_large else 2) * (self.a.nbytes + self.b.nbytes)


class TokenSlots:
    """Which tokens of the current pass have which adapter."""

    def __init__(self) -> None:
        self.groups: list[tuple[int, Tokens]] = []
        """Slots, and their tokens among all of the pass."""
        self.singles: tuple[tuple[int, int], ...] = ()
        """Of these, slots with a single token, if they are several: (slot, token)."""
        self._slots: tuple[int, ...] = ()
        self._counts: tuple[int, ...] = ()

    def select(self, slots: Sequence[int]) -> None:
        """From now on rows have these slots."""
        if self._slots != (new := tuple(slots)):
            self._slots, self._counts = new, ()

    def begin(self, counts: Sequence[int]) -> None:
        """A pass with so many tokens of each row begins."""
        if not any(self._slots):
            self.groups, self.singles = [], ()
            return
        if len(counts) != len(self._slots):
            raise RuntimeError(f"a pass of {len(counts)} rows, but slots of {len(self._slots)}")
        if self._counts == (new := tuple(counts)) and self.groups:
            return
        self._counts, self.groups = new, _groups(self._slots, new)
        singles = [(slot, int(tokens[0])) for slot, tokens in self.groups if len(tokens) == 1]
        self.singles = tuple(singles) if len(singles) >= _MIN_SINGLES else ()


def _groups(slots: Sequence[int], counts: Sequence[int]) -> list[tuple[int, Tokens]]:
    of_tokens = np.repeat(slots, counts)
    groups = [(slot, np.flatnonzero(of_tokens == slot)) for slot in sorted({*slots} - {NO_ADAPTER})]
    return [(slot, tokens) for slot, tokens in groups if len(tokens)]


@dataclass(frozen=True, slots=True)
class _Stacked:
    """The matrices of one layer for single tokens with an adapter each, padded to one rank."""

    tokens: Tokens
    a: Floats
    """(tokens, inputs, rank)"""
    b: Floats
    """(tokens, rank, outputs)"""
    outputs: slice

    @classmethod
    def of(cls, matrices: Mapping[int, Matrices]) -> "_Stacked":
        """By token."""
        first, *_ = matrices.values()
        rank = max(its.a.shape[1] for its in matrices.values())
        a = np.zeros((len(matrices), len(first.a), rank), np.float32)
        b = np.zeros((len(matrices), rank, first.b.shape[1]), np.float32)
        for at, its in enumerate(matrices.values()):
            a[at, :, : its.a.shape[1]] = its.a
            b[at, : len(its.b)] = its.b
        return cls(np.array([*matrices]), a, b, first.outputs)

    def add(self, values: Floats, product: Floats) -> None:
        between = values[self.tokens][:, None] @ self.a
        product[self.tokens, self.outputs] += (between @ self.b)[:, 0]


class LayerSlots:
    """The matrices of one layer in all slots."""

    def __init__(self, tokens: TokenSlots) -> None:
        self._tokens = tokens
        self._slots: dict[int, Matrices] = {}
        self._stacked: _Stacked | None = None
        self._singles: tuple[tuple[int, int], ...] = ()
        """Those of `_stacked`."""

    def put(self, slot: int, matrices: Matrices | None) -> None:
        """Fills a slot, or empties it."""
        self._stacked, self._singles = None, ()
        self._slots.pop(slot, None)
        if matrices is not None:
            self._slots[slot] = matrices

    def add(self, values: Floats, product: Floats) -> None:
        """Adds the adapters of all tokens."""
        if not self._slots:
            return
        self._stack_singles()
        for slot, tokens in self._tokens.groups:
            if (its := self._slots.get(slot)) is None:
                continue
            if self._stacked is not None and len(tokens) == 1 and not its.is_large:
                continue
            if len(tokens) == len(values):
                product[:, its.outputs] += (values @ its.a) @ its.b
            else:
                product[tokens, its.outputs] += (values[tokens] @ its.a) @ its.b
        if self._stacked is not None:
            self._stacked.add(values, product)

    def _stack_singles(self) -> None:
        """Stacks stay while the same rows decode."""
        if self._tokens.singles is self._singles:
            return
        self._singles = self._tokens.singles
        small = {
            token: its
            for slot, token in self._singles
            if (its := self._slots.get(slot)) is not None and not its.is_large
        }
        self._stacked = _Stacked.of(small) if small else None
