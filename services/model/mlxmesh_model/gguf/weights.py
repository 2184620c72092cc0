"""What each tensor becomes in model.safetensors, and turning its rows into that."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxmesh_model.gguf.architectures import Wanted
from mlxmesh_model.gguf.header import GgufTensor
from mlxmesh_model.gguf.kinds import GROUP, Raw
from mlxmesh_model.gguf.problems import BadFile, NotSupported
from mlxmesh_model.gguf.tensor_file import Part

_SLICE_BYTES = 4 * 2**20
"""Rows are converted this much at a time; float32 values of them are up to seven times as large."""


class Dtype(StrEnum):
    """The types that plain weights can be stored in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


_CODES = {Dtype.FLOAT32: "F32", Dtype.FLOAT16: "F16", Dtype.BFLOAT16: "BF16"}
_DTYPES = {"F32": Dtype.FLOAT32, "F16": Dtype.FLOAT16, "BF16": Dtype.BFLOAT16}


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the file with its place, and whether it stays packed there."""

    source: GgufTensor
    place: Wanted
    packed: bool
    dtype: Dtype
    """Of the plain numbers."""
    parts: tuple[Part, ...] = field(init=False)
    """What it is in the new file: the weight, and where packed its scales and biases."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self._parts()))

    def _parts(self) -> Iterator[Part]:
        name, shape, bits = self.place.name, self.place.shape, self.source.kind.bits
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
        return len(self.place.shape) == 1

    @property
    def slice_rows(self) -> int:
        """How many rows to convert at a time: whole heads, where their order changes."""
        rows = max(1, _SLICE_BYTES // self.source.row_bytes)
        head = self.place.head_rows
        return max(head, rows // head * head) if head else rows

    def convert(self, raw: Raw) -> tuple[NDArray[Any], ...]:
        """The rows of each part. Raises: BadFile, NotSupported for values that no weight has."""
        if self.place.head_rows:
            # A bias is one row here, and its values are what is ordered by head.
            by_row = raw.reshape(-1, raw.size // self.place.shape[0]) if self._is_vector else raw
            raw = halves_first(by_row, self.place.head_rows).reshape(raw.shape)
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
            # To the nearest, ties to even, as mlx rounds.
            bits = numbers.view(np.uint32)
            return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        with np.errstate(over="ignore"):
            stored = numbers.astype(np.float16)
        if not np.isfinite(stored).all():
            raise NotSupported(
                f"tensor {self.source.name} has values too large for float16; "
                "import it with the dtype bfloat16 or float32"
            )
        return stored

    def _check(self, *values: NDArray[Any]) -> None:
        if not all(np.isfinite(value).all() for value in values):
            raise BadFile(f"tensor {self.source.name} has values that are no numbers, or infinite")


def halves_first(raw: Raw, head_rows: int) -> Raw:
    """Rows of each head from the order (0, half, 1, half + 1, ...) back to (0, 1, 2, ...).

    Source: LlamaModel.permute in llama.cpp's convert_hf_to_gguf.py, undone.
    """
    rows, row_bytes = raw.shape
    pairs = raw.reshape(rows // head_rows, head_rows // 2, 2, row_bytes)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, row_bytes)


def plan_weights(
    tensors: Mapping[str, GgufTensor], wanted: Mapping[str, Wanted], dtype: Dtype | None
) -> list[Weight]:
    """Each tensor that has a place; `dtype` unpacks all of them, None leaves packed ones packed."""
    plain = dtype or _own_dtype(tensors)
    for name, place in wanted.items():
        if tensors[name].kind.bits and len(place.shape) == 1:
            raise NotSupported(f"tensor {name} is a vector of type {tensors[name].kind.name}")
    return [
        Weight(
            source=tensors[name],
            place=place,
            packed=bool(tensors[name].kind.bits) and dtype is None,
            dtype=plain,
        )
        for name, place in wanted.items()
    ]


def _own_dtype(tensors: Mapping[str, GgufTensor]) -> Dtype:
    """What most of the file is in; float16 beside packed weights, whose scales are float16."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.kind.name] = sizes.get(tensor.kind.name, 0) + math.prod(tensor.shape)
    return _DTYPES.get(max(sizes, key=lambda name: sizes[name]), Dtype.FLOAT16)


def quantization_of(weights: list[Weight]) -> dict[str, Any] | None:
    """config.json's `quantization`: the bits of most weights, and those of each that differs."""
    bits = {
        weight.place.name.removesuffix(".weight"): weight.source.kind.bits
        for weight in weights
        if weight.packed
    }
    if not bits:
        return None
    values = {weight.place.name: math.prod(weight.place.shape) for weight in weights}
    totals: dict[int, int] = {}
    for name, own in bits.items():
        totals[own] = totals.get(own, 0) + values[f"{name}.weight"]
    usual = max(totals, key=lambda own: totals[own])
    others = {
        name: {"group_size": GROUP, "bits": own} for name, own in bits.items() if own != usual
    }
    return {"group_size": GROUP, "bits": usual, **others}
