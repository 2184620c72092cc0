"""The layers of a model that takes no adapters."""

from collections.abc import Mapping, Sequence

from mlxmesh_engine.adapters.layers import Footprint, PreparedAdapter
from mlxmesh_shared.errors import AdapterInvalid
from mlxmesh_shared.lora.adapter_files import LoraLayer
from mlxmesh_shared.lora.module_paths import Shapes


class NoAdapters:
    """No layer takes an adapter; implements `AdaptableLayers`."""

    def __init__(self, where: str) -> None:
        """where: for the error, as in `a model that reads images`."""
        self._where = where

    def shapes(self) -> Shapes:
        return {}

    def prepare(self, layers: Mapping[str, LoraLayer]) -> PreparedAdapter:
        raise AdapterInvalid(f"the engine adds no adapters to {self._where}")

    def nbytes(self, slots: Mapping[int, Footprint]) -> int:
        return 0

    def install(
        self, adapter: PreparedAdapter, slot: int, slots: Mapping[int, Footprint], max_bytes: int
    ) -> None:
        """Nothing is prepared, so nothing is installed."""

    def remove(self, slot: int) -> None:
        """Every slot is empty."""

    def select(self, slots: Sequence[int]) -> None:
        """No row has one."""
