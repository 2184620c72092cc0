"""The stacked matrices of a linear layer's adapters, and the slots of the rows of a pass."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlxmesh_engine.adapters.layers import NO_ADAPTER
from mlxmesh_engine.evaluation import evaluate


class RowSlots:
    """The slots of the rows of the passes to come."""

    def __init__(self) -> None:
        self.selected: tuple[int, ...] = ()
        self.shared: int | None = NO_ADAPTER
        """The slot of all rows; None if they differ."""
        self.slots = mx.zeros((0,), mx.uint32)

    def select(self, slots: tuple[int, ...]) -> None:
        if slots == self.selected:
            return
        distinct = {*slots} or {NO_ADAPTER}
        self.shared = next(iter(distinct)) if len(distinct) == 1 else None
        self.selected, self.slots = slots, mx.array(slots, mx.uint32)


@dataclass(slots=True)
class SlotStack:
    """The matrices of one layer in all slots: (slots, inputs, rank) and (slots, rank, outputs)."""

    rows: RowSlots
    a: mx.array
    b: mx.array

    @classmethod
    def empty(
        cls, rows: RowSlots, shape: tuple[int, int], size: "StackSize", dtype: mx.Dtype
    ) -> "SlotStack":
        outputs, inputs = shape
        return cls(
            rows,
            mx.zeros((size.slots, inputs, size.rank), dtype),
            mx.zeros((size.slots, size.rank, outputs), dtype),
        )

    @property
    def size(self) -> "StackSize":
        return StackSize(self.a.shape[0], self.a.shape[2])

    def resize(self, size: "StackSize") -> None:
        """Keeps what fits; the rest is zeros."""
        slots, rank = min(size.slots, self.size.slots), min(size.rank, self.size.rank)
        a = mx.zeros((size.slots, self.a.shape[1], size.rank), self.a.dtype)
        b = mx.zeros((size.slots, size.rank, self.b.shape[2]), self.b.dtype)
        a[:slots, :, :rank] = self.a[:slots, :, :rank]
        b[:slots, :rank] = self.b[:slots, :rank]
        self.a, self.b = a, b
        evaluate([a, b])

    def put(self, slot: int, a: Any, b: Any) -> None:
        """Writes matrices to a slot, in place if no pass under way uses the stack."""
        missing = self.size.rank - a.shape[1]
        self.a[slot] = mx.array(np.pad(a, ((0, 0), (0, missing)))).astype(self.a.dtype)
        self.b[slot] = mx.array(np.pad(b, ((0, missing), (0, 0)))).astype(self.b.dtype)

    def clear(self, slot: int) -> None:
        self.a[slot] = mx.zeros(self.a.shape[1:], self.a.dtype)
        self.b[slot] = mx.zeros(self.b.shape[1:], self.b.dtype)

    def added(self, y: mx.array, x: mx.array) -> mx.array:
        """The layer's output y for x, rows first, with the adapters of the rows."""
        shared = self.rows.shared
        if shared == NO_ADAPTER:
            return y
        x = x.astype(self.a.dtype)
        if shared is not None:
            z = (x @ self.a[shared]) @ self.b[shared]
        else:
            z = _by_row(_by_row(x, self.a, self.rows.slots), self.b, self.rows.slots)
        return y + z.astype(y.dtype)


def _by_row(x: mx.array, stack: mx.array, slots: mx.array) -> mx.array:
    """Each row (tokens, n) or (n,) of x times its slot's matrix (n, m)."""
    if x.ndim == 2:
        return _by_row(x[:, None], stack, slots)[:, 0]
    if x.shape[0] != slots.shape[0]:
        raise RuntimeError(f"a pass of {x.shape[0]} rows, but slots of {slots.shape[0]}")
    if stack.dtype != mx.float32 and mx.default_device() == mx.Device(mx.cpu):
        return x @ stack[slots]  # a CPU has no gather_mm for narrow types
    return mx.gather_mm(x, stack, rhs_indices=slots)


@dataclass(frozen=True, slots=True)
class StackSize:
    slots: int
    """With slot 0."""
    rank: int
