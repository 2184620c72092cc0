"""LoRA in mlx-lm's forward pass: linear layers that add the adapter of each row.

The matrices of all slots are stacked, padded to the largest rank with zeros. A pass whose rows have
different adapters multiplies each row by the matrices of its slot, without copying them; slot 0
holds zeros. In a pass without adapters the layers are as they were.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, cast

import mlx.core as mx
import numpy as np

from mlxmesh_engine.adapters.layers import Footprint, PreparedAdapter
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.adaptable_linears import AdaptableLinear, find_linears
from mlxmesh_engine.forward.adapter_stacks import RowSlots, SlotStack, StackSize
from mlxmesh_shared.lora.adapter_files import LoraLayer
from mlxmesh_shared.lora.module_paths import Shapes

_MIN_SLOTS = 4


class AdaptedLinears:
    """Implements `AdaptableLayers` for a model of mlx-lm.

    probe: runs passes of one row when iterated, of `PROBED_TOKENS` tokens each.
    """

    def __init__(self, model: Any, probe: Callable[[], Iterator[None]]) -> None:
        self._model = model
        self._probe = probe
        self._found: dict[str, AdaptableLinear] | None = None
        self._stacks: dict[str, SlotStack] = {}
        self._rows = RowSlots()

    def shapes(self) -> Shapes:
        return {path: linear.shape for path, linear in self._linears.items()}

    @property
    def _linears(self) -> dict[str, AdaptableLinear]:
        if self._found is None:
            self._found = find_linears(self._model, self._probe)
        return self._found

    def prepare(self, layers: Mapping[str, LoraLayer]) -> PreparedAdapter:
        matrices = {
            path: (layer.a, layer.b * np.float32(layer.scale)) for path, layer in layers.items()
        }
        footprint = Footprint(
            rank=max(layer.rank for layer in layers.values()),
            modules=frozenset(layers),
            nbytes=sum(a.nbytes + b.nbytes for a, b in matrices.values()),
        )
        return PreparedAdapter(footprint, matrices)

    def nbytes(self, slots: Mapping[int, Footprint]) -> int:
        size, modules = self._needed(slots)
        return self._stacked_bytes(size, modules)

    def _needed(self, slots: Mapping[int, Footprint]) -> tuple[StackSize, frozenset[str]]:
        """The number of slots grows by doubling, so that stacks are rarely copied."""
        count = _MIN_SLOTS
        while count < max(slots):
            count *= 2
        rank = max(footprint.rank for footprint in slots.values())
        modules = frozenset[str]().union(*(each.modules for each in slots.values()))
        return StackSize(1 + count, rank), modules

    def _stacked_bytes(self, size: StackSize, modules: Collection[str]) -> int:
        values = sum(
            sum(linear.shape) * linear.dtype.size
            for linear in (self._linears[path] for path in modules)
        )
        return size.slots * size.rank * values

    def install(
        self, adapter: PreparedAdapter, slot: int, slots: Mapping[int, Footprint], max_bytes: int
    ) -> None:
        size, modules = self._needed(slots)
        for path in set(self._stacks) - modules:
            _set_stack(self._linears[path].module, None)
            del self._stacks[path]
        if self._stacks:
            allocated = next(iter(self._stacks.values())).size
            larger = StackSize(max(size.slots, allocated.slots), max(size.rank, allocated.rank))
            # Stacks shrink only if they must: adapters come and go.
            size = larger if self._stacked_bytes(larger, modules) <= max_bytes else size
        for path in sorted(modules):
            stack = self._stack(path, size)
            if path in adapter.matrices:
                stack.put(slot, *adapter.matrices[path])
            else:
                stack.clear(slot)
        evaluate([array for stack in self._stacks.values() for array in (stack.a, stack.b)])

    def _stack(self, path: str, size: StackSize) -> SlotStack:
        """The layer's stack, of this size."""
        stack = self._stacks.get(path)
        if stack is None:
            linear = self._linears[path]
            stack = SlotStack.empty(self._rows, linear.shape, size, linear.dtype)
            self._stacks[path] = stack
            _set_stack(linear.module, stack)
        elif stack.size != size:
            stack.resize(size)
        return stack

    def remove(self, slot: int) -> None:
        """What the slot holds stays until another adapter gets it; no row uses it meanwhile."""

    def select(self, slots: Sequence[int]) -> None:
        self._rows.select(tuple(slots))


@cache
def _adapted(kind: Any) -> Any:
    """The class with the adapters of its rows added."""

    class Adapted(kind):
        def __call__(self, x: mx.array) -> mx.array:
            return self.stack.added(kind.__call__(self, x), x)

    return Adapted


def _set_stack(module: Any, stack: SlotStack | None) -> None:
    """Adds a stack to a layer, or makes it again what it was."""
    if stack is None:
        object.__delattr__(module, "stack")
        module.__class__ = type(module).__mro__[1]
    else:
        # Not by Module's own __setattr__: a stack is no parameter of the model.
        object.__setattr__(module, "stack", stack)
        module.__class__ = _adapted(cast("Any", type(module)))
