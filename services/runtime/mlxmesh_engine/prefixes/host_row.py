"""Keys and values, or states, as plain bytes in host memory, and as a file with a checksum.

A file: 8 bytes of magic, the SHA-256 digest of all that follows, the length of the header (4 bytes,
big endian), the header (JSON), then the bytes of each array.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

MAGIC = b"MLXMPFX1"
_DIGEST_BYTES = 32
_LENGTH_BYTES = 4
_BEGIN = len(MAGIC) + _DIGEST_BYTES
# Of keys and values: (rows or layers, heads, tokens, dims).
_TOKEN_AXIS = 2


class CorruptFile(Exception):
    """A file does not hold what it should; the message says why."""


@dataclass(frozen=True, slots=True)
class HostRow:
    """Arrays as unsigned integers of their size, with the names of their types."""

    arrays: tuple[NDArray[Any], ...]
    types: tuple[str, ...]
    structure: Any = None
    """How a state is nested: JSON in which an object {"array": n} is one of the arrays."""

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    @property
    def tokens(self) -> int:
        """Of keys and values."""
        return self.arrays[0].shape[_TOKEN_AXIS]

    def part(self, start: int, stop: int) -> "HostRow":
        """These tokens of keys and values; shares their memory."""
        parts = tuple(array[:, :, start:stop] for array in self.arrays)
        return HostRow(parts, self.types, self.structure)


def joined(rows: Sequence[HostRow]) -> HostRow:
    """Keys and values of consecutive tokens as one row."""
    if len(rows) == 1:
        return rows[0]
    by_array = zip(*(row.arrays for row in rows), strict=True)
    arrays = tuple(np.concatenate(parts, axis=_TOKEN_AXIS) for parts in by_array)
    return HostRow(arrays, rows[0].types, rows[0].structure)


def encode(name: str, row: HostRow) -> bytes:
    """The file of this name."""
    arrays = [
        {"type": type_, "bytes": array.itemsize, "shape": array.shape}
        for array, type_ in zip(row.arrays, row.types, strict=True)
    ]
    header = json.dumps({"name": name, "structure": row.structure, "arrays": arrays}).encode()
    length = len(header).to_bytes(_LENGTH_BYTES, "big")
    content = b"".join([length, header, *(array.tobytes() for array in row.arrays)])
    return b"".join([MAGIC, hashlib.sha256(content).digest(), content])


def decode(name: str, file: bytes) -> HostRow:
    """The content of the file of this name. Raises: CorruptFile."""
    content = memoryview(file)[_BEGIN:]
    if file[: len(MAGIC)] != MAGIC or hashlib.sha256(content).digest() != file[len(MAGIC) : _BEGIN]:
        raise CorruptFile("its checksum is wrong")
    stop = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big")
    header = cast("dict[str, Any]", json.loads(bytes(content[_LENGTH_BYTES:stop])))
    if header["name"] != name:
        raise CorruptFile("it is the file of another prefix")
    arrays: list[NDArray[Any]] = []
    for each in header["arrays"]:
        count = prod(each["shape"])
        array = np.frombuffer(content, np.dtype(f"u{each['bytes']}"), count, stop)
        arrays.append(array.reshape(each["shape"]))
        stop += array.nbytes
    return HostRow(
        tuple(arrays), tuple(each["type"] for each in header["arrays"]), header["structure"]
    )
