"""LoRA in the forward pass for CPUs: products that add the adapters of their tokens.

One product computes several layers of the model, with gains and scales in its weights, so the
matrices of adapters are arranged and scaled as the weights were.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mlxmesh_engine.adapters.layers import Footprint, PreparedAdapter
from mlxmesh_engine.cpu.layer_slots import LayerSlots, Matrices, TokenSlots
from mlxmesh_engine.cpu.products import Floats, Layout, Product
from mlxmesh_engine.cpu.weights import Rows
from mlxmesh_shared.lora.adapter_files import LoraLayer
from mlxmesh_shared.lora.module_paths import Shapes


@dataclass(frozen=True, slots=True)
class Source:
    """The layers of the model that a product computes."""

    shapes: Mapping[str, tuple[int, int]]
    """(outputs, inputs) of each, by its path, in the order of the product's outputs."""
    gain: Floats | None
    """Of the inputs: in the product's weights, but not in the layers'."""
    arrange: Callable[[Rows], Rows]
    """What was done to the layers' joined weights."""

    def prepare(self, layers: Mapping[str, LoraLayer]) -> list[Matrices | None]:
        """The matrices of an adapter for each of the layers."""
        prepared: list[Matrices | None] = []
        start = 0
        for path, (outputs, _) in self.shapes.items():
            layer = layers.get(path)
            prepared.append(None if layer is None else self._matrices(layer, start))
            start += outputs
        return prepared

    def _matrices(self, layer: LoraLayer, start: int) -> Matrices:
        """start: where the layer's outputs begin among those that are arranged."""
        a = layer.a if self.gain is None else layer.a * self.gain[:, None]
        outputs = sum(outputs for outputs, _ in self.shapes.values())
        rows = np.zeros((outputs, layer.rank), np.float32)
        rows[start : start + layer.shape[0]] = layer.b.T * np.float32(layer.scale)
        # What it is arranged to stays together, unless the layers' heads are mixed.
        places = np.zeros((outputs, layer.rank), np.float32)
        places[start : start + layer.shape[0]] = 1
        found = np.flatnonzero(self.arrange(Rows(places, None)).weight[:, 0])
        own = slice(int(found[0]), int(found[-1]) + 1)
        b = self.arrange(Rows(rows, None)).weight[own].T
        return Matrices(np.ascontiguousarray(a), np.ascontiguousarray(b), own)


class AdaptedProduct(Product):
    """A product that adds the adapters of its tokens."""

    def __init__(self, rows: Rows, layout: Layout, source: Source, tokens: TokenSlots) -> None:
        super().__init__(rows.weight, rows.bias, layout)
        self.source = source
        self._tokens = tokens
        self._layers = [LayerSlots(tokens) for _ in source.shapes]

    def fill(self, slot: int, matrices: Sequence[Matrices | None]) -> None:
        """Fills a slot with the matrices of each layer."""
        for layer, its in zip(self._layers, matrices, strict=True):
            layer.put(slot, its)

    def clear(self, slot: int) -> None:
        for layer in self._layers:
            layer.put(slot, None)

    def __call__(self, values: Floats) -> Floats:
        product = super().__call__(values)
        if self._tokens.groups:
            for layer in self._layers:
                layer.add(values, product)
        return product


class AdaptedProducts:
    """All products of a decoder that can have adapters; implements `AdaptableLayers`."""

    def __init__(self) -> None:
        self.tokens = TokenSlots()
        self._products: list[AdaptedProduct] = []

    def product(self, rows: Rows, layout: Layout, source: Source) -> Product:
        """Of these weights, which were made of the source's layers."""
        self._products.append(AdaptedProduct(rows, layout, source, self.tokens))
        return self._products[-1]

    def shapes(self) -> Shapes:
        sources = (product.source for product in self._products)
        return {path: shape for source in sources for path, shape in source.shapes.items()}

    def prepare(self, layers: Mapping[str, LoraLayer]) -> PreparedAdapter:
        matrices = {
            at: product.source.prepare(layers)
            for at, product in enumerate(self._products)
            if not layers.keys().isdisjoint(product.source.shapes)
        }
        footprint = Footprint(
            rank=max(layer.rank for layer in layers.values()),
            modules=frozenset(layers),
            nbytes=sum(its.nbytes for each in matrices.values() for its in each if its is not None),
        )
        return PreparedAdapter(footprint, matrices)

    def nbytes(self, slots: Mapping[int, Footprint]) -> int:
        return sum(footprint.nbytes for footprint in slots.values())

    def install(
        self, adapter: PreparedAdapter, slot: int, slots: Mapping[int, Any], max_bytes: int
    ) -> None:
        self.remove(slot)
        prepared = cast("Mapping[int, list[Matrices | None]]", adapter.matrices)
        for at, matrices in prepared.items():
            self._products[at].fill(slot, matrices)

    def remove(self, slot: int) -> None:
        for product in self._products:
            product.clear(slot)

    def select(self, slots: Sequence[int]) -> None:
        self.tokens.select(slots)
