"""Reads the header of a safetensors file, not its weights.

Source: the format's description in the safetensors repository (8 bytes of little-endian header
length, a JSON header, then the tensors; at most 100 MB of header, of which this reads 32 MiB).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter

# A third of what the format allows, and three times the largest known header.
_MAX_HEADER_BYTES = 32 * 2**20
# Without these bounds, multiplying very long numbers could take minutes.
_MAX_DIMENSIONS = 16
_MAX_VALUE = 2**63 - 1
# The smallest element has one bit.
_MAX_ELEMENTS_PER_BYTE = 8


class NotSafetensors(Exception):
    """The file is not a valid safetensors file."""


_Number = Annotated[int, Field(ge=0, le=_MAX_VALUE)]


class _Entry(BaseModel):
    dtype: Annotated[str, Field(max_length=32)]
    shape: Annotated[list[_Number], Field(max_length=_MAX_DIMENSIONS)]
    data_offsets: tuple[_Number, _Number]


# mlx writes null when there is no metadata.
_HEADER = TypeAdapter(dict[str, _Entry | dict[str, str] | None])


@dataclass(frozen=True, slots=True)
class Tensor:
    """The properties of a tensor; `dtype` is the format's name, for example BF16."""

    name: str
    dtype: str
    elements: int
    size_bytes: int
    shape: tuple[int, ...] = ()


def read_tensors(path: Path) -> list[Tensor]:
    """The tensors of a file.

    Raises: NotSafetensors, also when the file is shorter than its header says.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or not 0 < header_bytes <= min(_MAX_HEADER_BYTES, size_bytes - 8):
            raise NotSafetensors("it has no safetensors header")
        raw = file.read(header_bytes)
    try:
        return _parse(raw, data_bytes=size_bytes - 8 - header_bytes)
    except (ValueError, RecursionError) as error:
        raise NotSafetensors("its header cannot be read") from error


def _parse(raw: bytes, *, data_bytes: int) -> list[Tensor]:
    tensors: list[Tensor] = []
    for name, entry in _HEADER.validate_json(raw).items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, _Entry):
            raise NotSafetensors("its header cannot be read")
        begin, end = entry.data_offsets
        elements = math.prod(entry.shape)
        if not begin <= end <= data_bytes or elements > _MAX_ELEMENTS_PER_BYTE * (end - begin):
            raise NotSafetensors("it is cut short, or its shapes are wrong")
        tensors.append(Tensor(name, entry.dtype, elements, end - begin, tuple(entry.shape)))
    return tensors
