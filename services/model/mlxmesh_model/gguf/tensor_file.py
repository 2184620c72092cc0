"""Writes a safetensors file incrementally, with several tensors at once.

The safetensors library can only write tensors that are completely in memory.
Source: the format's description in the safetensors repository.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

_SIZES = {"F32": 4, "U32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the file; `dtype` is the format's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * _SIZES[self.dtype]


class TensorFile:
    """A file open for writing; complete once every part has been written completely."""

    def __init__(self, path: Path, parts: Iterable[Part]) -> None:
        # The widest values first, so that each tensor is aligned to its element size.
        ordered = sorted(parts, key=lambda part: (-_SIZES[part.dtype], part.name))
        header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
        offset = 0
        for part in ordered:
            end = offset + part.size_bytes
            header[part.name] = {
                "dtype": part.dtype,
                "shape": part.shape,
                "data_offsets": [offset, end],
            }
            offset = end
        encoded = json.dumps(header).encode()
        encoded += b" " * (-len(encoded) % 8)
        self._start = 8 + len(encoded)
        self._next = {part.name: header[part.name]["data_offsets"][0] for part in ordered}
        self._file = path.open("xb")
        self._file.write(len(encoded).to_bytes(8, "little") + encoded)

    def append(self, part: Part, values: NDArray[Any]) -> int:
        """Writes the next values of a part; returns the number of bytes."""
        self._file.seek(self._start + self._next[part.name])
        self._file.write(values.data)
        self._next[part.name] += values.nbytes
        return values.nbytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file:
            if error is None:
                self._file.flush()
                os.fsync(self._file.fileno())
