"""The GGUF tensor types that mlx can represent exactly, packed or as plain numbers.

A quantized type has blocks of 32 values along a row. mlx's affine form with groups of 32 has the
same blocks: value = scale * q + bias, with q unsigned.
Source: block_q4_0, block_q4_1 and block_q8_0 in ggml's ggml-common.h; mlx.core.quantize.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP = 32

Raw = NDArray[np.uint8]
"""(rows, bytes per row), as in the file."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows in mlx's format: words (rows, columns * bits / 32), scales and biases (rows, groups)."""

    words: NDArray[np.uint32]
    scales: NDArray[np.float16]
    biases: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Kind:
    """A tensor type; `bits` is 0 for plain numbers."""

    name: str
    block_values: int
    block_bytes: int
    bits: int
    numbers: Callable[[Raw], NDArray[np.float32]]
    """The values as (rows, columns) float32."""

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row."""
        return columns // self.block_values * self.block_bytes

    def pack(self, raw: Raw) -> Packed:
        """The rows of a quantized type in mlx's format, without rounding."""
        scales, offsets, quants = _BLOCKS[self.name](raw)
        rows = raw.shape[0]
        flat = quants.reshape(rows, -1)
        if self.bits == 4:
            flat = flat[:, ::2] | flat[:, 1::2] << np.uint8(4)
        words = np.ascontiguousarray(flat).view("<u4")
        return Packed(words, scales, offsets)


def _float32(raw: Raw) -> NDArray[np.float32]:
    return raw.view("<f4")


def _float16(raw: Raw) -> NDArray[np.float32]:
    return raw.view("<f2").astype(np.float32)


def _bfloat16(raw: Raw) -> NDArray[np.float32]:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


_Blocks = tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.uint8]]
"""Scales and offsets (rows, groups), and unsigned values (rows, groups, 32)."""


def _blocks(raw: Raw, block_bytes: int) -> NDArray[np.uint8]:
    return raw.reshape(raw.shape[0], -1, block_bytes)


def _half(blocks: NDArray[np.uint8], at: int) -> NDArray[np.float16]:
    return np.ascontiguousarray(blocks[:, :, at : at + 2]).view("<f2")[:, :, 0]


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Unpacks nibbles: the low nibbles of a block's 16 bytes come first, then the high ones."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=2)


def _q4_0(raw: Raw) -> _Blocks:
    blocks = _blocks(raw, 18)
    scales = _half(blocks, 0)
    return scales, _times(scales, -8), _nibbles(blocks[:, :, 2:])


def _q4_1(raw: Raw) -> _Blocks:
    blocks = _blocks(raw, 20)
    return _half(blocks, 0), _half(blocks, 2), _nibbles(blocks[:, :, 4:])


def _q8_0(raw: Raw) -> _Blocks:
    blocks = _blocks(raw, 34)
    scales = _half(blocks, 0)
    return scales, _times(scales, -128), blocks[:, :, 2:] ^ np.uint8(0x80)


def _times(scales: NDArray[np.float16], power: int) -> NDArray[np.float16]:
    """Multiplies by a power of two, which is exact; an overflow becomes infinite and is rejected
    when the weights are checked.
    """
    with np.errstate(over="ignore"):
        return scales * np.float16(power)


_BLOCKS: dict[str, Callable[[Raw], _Blocks]] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0}


def _dequantized(name: str) -> Callable[[Raw], NDArray[np.float32]]:
    def numbers(raw: Raw) -> NDArray[np.float32]:
        scales, offsets, quants = _BLOCKS[name](raw)
        values: NDArray[Any] = quants.astype(np.float32)
        values = values * scales.astype(np.float32)[:, :, None]
        return (values + offsets.astype(np.float32)[:, :, None]).reshape(raw.shape[0], -1)

    return numbers


KINDS = {
    0: Kind("F32", 1, 4, 0, _float32),
    1: Kind("F16", 1, 2, 0, _float16),
    2: Kind("Q4_0", GROUP, 18, 4, _dequantized("Q4_0")),
    3: Kind("Q4_1", GROUP, 20, 4, _dequantized("Q4_1")),
    8: Kind("Q8_0", GROUP, 34, 8, _dequantized("Q8_0")),
    30: Kind("BF16", 1, 2, 0, _bfloat16),
}
"""The supported types, by their number in the file."""

OTHER_KINDS = {
    6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
    15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
"""Names of unsupported types, for messages."""
