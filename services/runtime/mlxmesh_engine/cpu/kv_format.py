"""How the keys and values of a token are kept: as they are, or with 8 or 4 bits for each number.

Each token is encoded by itself, from its own numbers, so it is kept alike in every batch and slice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlxmesh_engine.cpu.products import Floats

Arrays = Sequence[NDArray[Any]]
_GROUP_DIMS = 32
_BYTE_BITS = 8
_MAX_FACTOR = float(np.finfo(np.float16).max)
# So many numbers stay in a core's cache between the operations on them.
_NUMBERS_AT_ONCE = 2**16


class KvFormat(Protocol):
    """Turns numbers (..., dims) into the arrays that a row holds, and back."""

    def columns(self, dims: int) -> list[tuple[DTypeLike, int]]:
        """The type and length of what is held of one head, for each array."""
        ...

    def encode(self, values: Floats) -> Arrays:
        """The arrays, each (..., its length)."""
        ...

    def decode(self, arrays: Arrays) -> Floats:
        """The numbers, which may share memory with the arrays."""
        ...


class Full:
    """The numbers themselves."""

    def columns(self, dims: int) -> list[tuple[DTypeLike, int]]:
        return [(np.float32, dims)]

    def encode(self, values: Floats) -> Arrays:
        return (values,)

    def decode(self, arrays: Arrays) -> Floats:
        return arrays[0]


@dataclass(frozen=True, slots=True)
class Quantized:
    """Codes of `bits` (8 or 4), and for each group of dims the scale and the smallest number.

    A number is scale * code + smallest; both factors are float16. With 4 bits a byte has the code
    of a dim of the first half below that of the same dim of the second half.
    """

    bits: int

    def columns(self, dims: int) -> list[tuple[DTypeLike, int]]:
        groups = dims // _group_dims(dims)
        return [(np.uint8, dims * self.bits // _BYTE_BITS), (np.float16, 2 * groups)]

    def encode(self, values: Floats) -> Arrays:
        dims = values.shape[-1]
        grouped = values.reshape(*values.shape[:-1], -1, _group_dims(dims))
        levels = 2**self.bits - 1
        # Rounded so that every number is between the lowest and the highest code.
        low = _rounded(grouped.min(axis=-1), -np.inf)
        spread = grouped.max(axis=-1) - low.astype(np.float32)
        scales = _rounded(spread * np.float32(1 / levels), np.inf)
        factors = np.concatenate([scales, low], axis=-1)
        scales, low = np.split(factors.astype(np.float32), 2, axis=-1)
        scales[scales == 0] = 1  # all codes are 0
        codes = grouped - low[..., None]
        codes /= scales[..., None]
        np.rint(codes, out=codes)
        np.clip(codes, 0, levels, out=codes)
        with np.errstate(invalid="ignore"):  # NaN stays one by its factors
            return self._packed(codes.astype(np.uint8).reshape(values.shape)), factors

    def decode(self, arrays: Arrays) -> Floats:
        codes, factors = arrays
        heads, tokens, width = codes.shape
        values = np.empty((heads, tokens, width * _BYTE_BITS // self.bits), np.float32)
        size = max(1, _NUMBERS_AT_ONCE // (heads * values.shape[-1]))
        for start in range(0, tokens, size):
            part = slice(start, start + size)
            self._decode_into(codes[:, part], factors[:, part], values[:, part])
        return values

    def _packed(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.bits == _BYTE_BITS:
            return codes
        half = codes.shape[-1] // 2
        return codes[..., :half] | codes[..., half:] << np.uint8(4)

    def _decode_into(
        self, codes: NDArray[np.uint8], factors: NDArray[np.float16], values: Floats
    ) -> None:
        """values: (heads, tokens, dims), whose last two axes are contiguous."""
        if self.bits == _BYTE_BITS:
            values[...] = codes
        else:
            half = codes.shape[-1]
            values[..., :half] = codes & 15
            values[..., half:] = codes >> 4
        scales, low = np.split(factors.astype(np.float32)[..., None], 2, axis=-2)
        grouped = values.reshape(*values.shape[:-1], scales.shape[-2], -1, copy=False)
        grouped *= scales
        grouped += low


def _rounded(values: Floats, towards: float) -> NDArray[np.float16]:
    """Rounds to float16 towards an infinity."""
    near = values.clip(-_MAX_FACTOR, _MAX_FACTOR).astype(np.float16)
    next_ = np.nextafter(near, np.float16(towards))
    beyond = near < values if towards > 0 else near > values
    return np.where(beyond, next_, near)


def _group_dims(dims: int) -> int:
    return gcd(dims, _GROUP_DIMS)


FULL = Full()
KV_BITS = {"8bit": 8, "4bit": 4}
FORMATS: dict[str, KvFormat] = {
    "full": FULL,
    **{name: Quantized(bits) for name, bits in KV_BITS.items()},
}
"""By kv_cache_type."""


def head_bytes(kv_format: KvFormat, dims: int) -> int:
    """The size of one head's key, or value, of a token."""
    return sum(np.dtype(type_).itemsize * length for type_, length in kv_format.columns(dims))
