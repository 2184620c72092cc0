"""A safetensors file whose tensors are written piece by piece, several at once.

The safetensors library writes only what is in memory as a whole.
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
    """A tensor of the file; `dtype` is the format's own name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * _SIZES[self.dtype]


class TensorFile:
    """Open for writing; whole once each part has been written to its end."""

    def __init__(self, path: Path, parts: Iterable[Part]) -> None:
        # The widest values first: so each tensor begins at a multiple of its own size.
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
        """Writes the next values of a part; returns how many bytes they are."""
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
