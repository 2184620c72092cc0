"""Reads the header of a GGUF file, its metadata and list of tensors, within fixed bounds.

Each count is checked before that much is read, so a hostile file cannot cause reads beyond its end,
more than a few hundred MB of memory, or more than seconds of work.
Source: the GGUF specification in the ggml repository (docs/gguf.md), versions 2 and 3.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from mlxmesh_model.gguf.kinds import KINDS, OTHER_KINDS, Kind
from mlxmesh_model.gguf.metadata import BadFile, Metadata, NotSupported

MAX_HEADER_BYTES = 256 * 2**20
MAX_KEYS = 10_000
MAX_TENSORS = 100_000
MAX_NAME_BYTES = 256
MAX_TEXT_BYTES = 2**20
MAX_ELEMENTS = 2**21
"""The limit of all arrays together; the largest vocabularies with merges have about a million."""
MAX_DIMENSION = 2**31
MAX_ALIGNMENT = 2**16

_TEXT, _ARRAY, _BOOL = 8, 9, 7
_FORMATS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", _BOOL: "<u1", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of the file; `shape` is outermost first, `offset` is from the start of the file."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    offset: int

    @property
    def rows(self) -> int:
        """The number of rows of `columns` values; a vector is one row."""
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """Values in a row."""
        return self.shape[-1]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.kind.row_bytes(self.columns)

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return self.rows * self.row_bytes


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The metadata and tensors of a file."""

    metadata: Metadata
    tensors: dict[str, GgufTensor]


def read_header(path: Path) -> GgufHeader:
    """The header of a file. Raises: BadFile, NotSupported; OSError if it cannot be read."""
    with path.open("rb") as file:
        return _Reader(file, path.stat().st_size).header()


class _Reader:
    """Reads sequentially, never beyond the end of the file or MAX_HEADER_BYTES."""

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self._file = file
        self._file_bytes = file_bytes
        self._position = 0
        self._elements = 0

    def header(self) -> GgufHeader:
        if self._file_bytes < 24 or self._read(4) != b"GGUF":
            raise BadFile("it does not begin with GGUF, so it may be another kind of file")
        version = self._number("I")
        if version not in (2, 3):
            raise NotSupported(
                f"its GGUF version is {version}; 2 and 3, little-endian, are supported"
            )
        tensor_count, key_count = self._number("Q"), self._number("Q")
        _check_count("tensors", tensor_count, MAX_TENSORS)
        _check_count("metadata keys", key_count, MAX_KEYS)
        metadata = Metadata(self._unique(key_count, "key", self._value))
        return GgufHeader(metadata, self._tensors(tensor_count, metadata))

    def _unique(self, count: int, what: str, read: Callable[[str], Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            name = self._text(f"the name of a {what}", MAX_NAME_BYTES)
            if name in found:
                raise BadFile(f"it has {what} {name} twice")
            found[name] = read(name)
        return found

    def _value(self, key: str) -> Any:
        kind = self._number("I")
        if kind == _TEXT:
            return self._text(key)
        if kind == _ARRAY:
            return self._array(key)
        return self._scalars(key, kind, 1)[0].item()

    def _array(self, key: str) -> Any:
        kind, count = self._number("I"), self._number("Q")
        self._elements += count
        _check_count(f"values up to and in {key}", self._elements, MAX_ELEMENTS)
        if kind == _TEXT:
            return [self._text(key) for _ in range(count)]
        return self._scalars(key, kind, count)

    def _scalars(self, key: str, kind: int, count: int) -> Any:
        if kind not in _FORMATS:
            raise BadFile(f"{key} has values of an unknown type ({kind})")
        dtype = np.dtype(_FORMATS[kind])
        values = np.frombuffer(self._read(dtype.itemsize * count), dtype)
        return values.astype(bool) if kind == _BOOL else values

    def _tensors(self, count: int, metadata: Metadata) -> dict[str, GgufTensor]:
        found: dict[str, GgufTensor] = self._unique(count, "tensor", self._tensor)
        alignment = metadata.integer("general.alignment", 8, MAX_ALIGNMENT, default=32)
        if alignment & (alignment - 1):
            raise BadFile(f"general.alignment is {alignment}, which is not a power of two")
        start = -(-self._position // alignment) * alignment
        placed = {
            name: GgufTensor(name, tensor.kind, tensor.shape, start + tensor.offset)
            for name, tensor in found.items()
        }
        _check_places(placed, self._file_bytes)
        return placed

    def _tensor(self, name: str) -> GgufTensor:
        dimensions = self._number("I")
        if not 1 <= dimensions <= 4:
            raise BadFile(f"tensor {name} has {dimensions} dimensions; 1 to 4 are legal")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        if not all(1 <= size <= MAX_DIMENSION for size in shape):
            raise BadFile(f"tensor {name} has an illegal shape, {list(shape)}")
        kind, offset = self._number("I"), self._number("Q")
        if kind not in KINDS:
            raise NotSupported(
                f"tensor {name} is of type {OTHER_KINDS.get(kind, kind)}; "
                f"{', '.join(known.name for known in KINDS.values())} are supported"
            )
        if shape[-1] % KINDS[kind].block_values:
            raise BadFile(
                f"tensor {name} has rows of {shape[-1]} values, not a whole number of blocks"
            )
        return GgufTensor(name, KINDS[kind], shape, offset)

    def _text(self, what: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
        size = self._number("Q")
        if size > max_bytes:
            raise BadFile(f"{what} has a string of {size} bytes; at most {max_bytes} are allowed")
        try:
            return self._read(size).decode()
        except UnicodeDecodeError as error:
            raise BadFile(f"{what} has a string that is not UTF-8") from error

    def _number(self, form: str) -> int:
        return cast("int", struct.unpack(f"<{form}", self._read(struct.calcsize(form)))[0])

    def _read(self, size: int) -> bytes:
        self._position += size
        if self._position > min(self._file_bytes, MAX_HEADER_BYTES):
            raise BadFile(
                "its header extends beyond the end of the file, or is larger than 256 MiB"
            )
        return self._file.read(size)


def _check_count(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise BadFile(f"it claims {count} {what}; at most {limit} are allowed")


def _check_places(tensors: dict[str, GgufTensor], file_bytes: int) -> None:
    """Requires each tensor to be inside the file and to overlap no other, which bounds the size of
    the converted weights.
    """
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise BadFile(f"tensor {tensor.name} overlaps another")
        end = tensor.offset + tensor.size_bytes
        if end > file_bytes:
            raise BadFile(
                f"tensor {tensor.name} ends at byte {end}, beyond the end of the file "
                f"({file_bytes} bytes); is the download complete?"
            )
