"""Plans the tensors of model.safetensors and converts their rows."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxmesh_model.gguf.architectures import Target
from mlxmesh_model.gguf.header import GgufTensor
from mlxmesh_model.gguf.kinds import GROUP, Raw
from mlxmesh_model.gguf.metadata import BadFile, NotSupported
from mlxmesh_model.gguf.tensor_file import Part

_SLICE_BYTES = 4 * 2**20
"""The size of a slice of rows; its float32 values are up to seven times as large."""


class Dtype(StrEnum):
    """The dtypes that plain weights can be stored in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


_CODES = {Dtype.FLOAT32: "F32", Dtype.FLOAT16: "F16", Dtype.BFLOAT16: "BF16"}
_DTYPES = {"F32": Dtype.FLOAT32, "F16": Dtype.FLOAT16, "BF16": Dtype.BFLOAT16}


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the file, its target, and whether it stays packed."""

    source: GgufTensor
    target: Target
    packed: bool
    dtype: Dtype
    """The dtype of plain numbers."""
    parts: tuple[Part, ...] = field(init=False)
    """Its tensors in the new file: the weight and, if packed, scales and biases."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self._parts()))

    def _parts(self) -> Iterator[Part]:
        name, shape, bits = self.target.name, self.target.shape, self.source.kind.bits
        if not self.packed:
            yield Part(name, _CODES[self.dtype], shape)
            return
        stem = name.removesuffix(".weight")
        columns = shape[-1]
        yield Part(name, "U32", (*shape[:-1], columns * bits // 32))
        yield Part(f"{stem}.scales", "F16", (*shape[:-1], columns // GROUP))
        yield Part(f"{stem}.biases", "F16", (*shape[:-1], columns // GROUP))

    @property
    def _is_vector(self) -> bool:
        return len(self.target.shape) == 1

    @property
    def slice_rows(self) -> int:
        """The number of rows per slice; whole heads if the rows are reordered."""
        rows = max(1, _SLICE_BYTES // self.source.row_bytes)
        head = self.target.head_rows
        return max(head, rows // head * head) if head else rows

    def convert(self, raw: Raw) -> tuple[NDArray[Any], ...]:
        """The rows of each part. Raises: BadFile, NotSupported for values that cannot be stored."""
        if self.target.head_rows:
            # A bias is one row, whose values are ordered by head.
            by_row = raw.reshape(-1, raw.size // self.target.shape[0]) if self._is_vector else raw
            raw = halves_first(by_row, self.target.head_rows).reshape(raw.shape)
        if self.packed:
            packed = self.source.kind.pack(raw)
            self._check(packed.scales, packed.biases)
            return packed.words, packed.scales, packed.biases
        numbers = self.source.kind.numbers(raw)
        self._check(numbers)
        return (self._stored(numbers),)

    def _stored(self, numbers: NDArray[np.float32]) -> NDArray[Any]:
        if self.dtype is Dtype.FLOAT32:
            return numbers
        if self.dtype is Dtype.BFLOAT16:
            # Rounds to nearest, ties to even, like mlx.
            bits = numbers.view(np.uint32)
            return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        with np.errstate(over="ignore"):
            stored = numbers.astype(np.float16)
        if not np.isfinite(stored).all():
            raise NotSupported(
                f"tensor {self.source.name} has values too large for float16; "
                "import it with dtype bfloat16 or float32"
            )
        return stored

    def _check(self, *values: NDArray[Any]) -> None:
        if not all(np.isfinite(value).all() for value in values):
            raise BadFile(f"tensor {self.source.name} has values that are NaN or infinite")


def halves_first(raw: Raw, head_rows: int) -> Raw:
    """Reorders the rows of each head from (0, half, 1, half + 1, ...) to (0, 1, 2, ...).

    Source: the inverse of LlamaModel.permute in llama.cpp's convert_hf_to_gguf.py.
    """
    rows, row_bytes = raw.shape
    pairs = raw.reshape(rows // head_rows, head_rows // 2, 2, row_bytes)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, row_bytes)


def plan_weights(
    tensors: Mapping[str, GgufTensor], targets: Mapping[str, Target], dtype: Dtype | None
) -> list[Weight]:
    """The weights with a target. A `dtype` unpacks all of them; None keeps packed ones packed."""
    plain = dtype or _own_dtype(tensors)
    for name, target in targets.items():
        if tensors[name].kind.bits and len(target.shape) == 1:
            raise NotSupported(f"tensor {name} is a vector of type {tensors[name].kind.name}")
    return [
        Weight(
            source=tensors[name],
            target=target,
            packed=bool(tensors[name].kind.bits) and dtype is None,
            dtype=plain,
        )
        for name, target in targets.items()
    ]


def _own_dtype(tensors: Mapping[str, GgufTensor]) -> Dtype:
    """The dtype of most values; float16 if most are packed, because scales are float16."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.kind.name] = sizes.get(tensor.kind.name, 0) + math.prod(tensor.shape)
    return _DTYPES.get(max(sizes, key=lambda name: sizes[name]), Dtype.FLOAT16)


def quantization_of(weights: list[Weight]) -> dict[str, Any] | None:
    """config.json's `quantization`: the bits of most weights, and of each one that differs."""
    bits = {
        weight.target.name.removesuffix(".weight"): weight.source.kind.bits
        for weight in weights
        if weight.packed
    }
    if not bits:
        return None
    values = {weight.target.name: math.prod(weight.target.shape) for weight in weights}
    totals: dict[int, int] = {}
    for name, own in bits.items():
        totals[own] = totals.get(own, 0) + values[f"{name}.weight"]
    usual = max(totals, key=lambda own: totals[own])
    others = {
        name: {"group_size": GROUP, "bits": own} for name, own in bits.items() if own != usual
    }
    return {"group_size": GROUP, "bits": usual, **others}
