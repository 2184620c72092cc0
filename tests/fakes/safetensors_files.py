"""Reads and writes safetensors files of float32 numpy arrays, without mlx."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_tensors(path: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """A file with these arrays."""
    header: dict[str, object] = {}
    offset = 0
    for name, array in tensors.items():
        end = offset + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """The float32 arrays of a file."""
    content = memoryview(path.read_bytes())
    [size] = struct.unpack_from("<Q", content)
    header = json.loads(bytes(content[8 : 8 + size]))
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(content[8 + size :][slice(*each["data_offsets"])], np.float32).reshape(
            each["shape"]
        )
        for name, each in header.items()
        if each["dtype"] == "F32"
    }
