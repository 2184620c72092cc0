"""The interface between the slots of adapters and the layers of a forward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlxmesh_shared.lora.adapter_files import LoraLayer
from mlxmesh_shared.lora.module_paths import Shapes

NO_ADAPTER = 0
"""The slot of rows without an adapter; slots of adapters count from 1."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What decides how much memory an adapter takes in a slot."""

    rank: int
    modules: frozenset[str]
    """Paths of the modules that it changes."""
    nbytes: int
    """Of its own matrices, as the layers hold them."""


@dataclass(frozen=True, slots=True)
class PreparedAdapter:
    """An adapter that fits the model, ready to be put into a slot."""

    footprint: Footprint
    matrices: Mapping[Any, Any]
    """By whatever identifies a layer."""


class AdaptableLayers(Protocol):
    """The linear layers of a forward pass, to which adapters are added row by row.

    Used on the MLX thread, but for `prepare`.
    """

    def shapes(self) -> Shapes:
        """(outputs, inputs) of each module that can have an adapter, by its path."""
        ...

    def prepare(self, layers: Mapping[str, LoraLayer]) -> PreparedAdapter:
        """The matrices as the layers need them. Without MLX, so on any thread."""
        ...

    def nbytes(self, slots: Mapping[int, Footprint]) -> int:
        """The memory that these adapters take together in these slots."""
        ...

    def install(
        self, adapter: PreparedAdapter, slot: int, slots: Mapping[int, Footprint], max_bytes: int
    ) -> None:
        """Puts an adapter into a slot. slots: all that are taken from now on, its own included."""
        ...

    def remove(self, slot: int) -> None:
        """Empties a slot; no row may be using it."""
        ...

    def select(self, slots: Sequence[int]) -> None:
        """From now on passes add these slots' adapters, one for each row; none for ()."""
        ...
