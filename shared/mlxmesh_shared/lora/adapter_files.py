"""Reads and checks the LoRA adapter of a directory, in mlx-lm's or PEFT's format."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors
from numpy.typing import NDArray

from mlxmesh_shared.errors import AdapterInvalid, AdapterNotFound
from mlxmesh_shared.host.json_file import MAX_JSON_BYTES, UnusableJson, parse_json_object
from mlxmesh_shared.lora.configuration import MLX_LM, PEFT, AdapterConfig, parse_config
from mlxmesh_shared.lora.module_paths import Shapes, fit_paths, name_in_layer

CONFIG = "adapter_config.json"
WEIGHTS: Mapping[str, str] = {MLX_LM: "adapters.safetensors", PEFT: "adapter_model.safetensors"}
"""The file of the matrices, by format."""
MAX_WEIGHTS_BYTES = 4 * 2**30

_deserialize = cast(
    "Callable[[bytes], list[tuple[str, dict[str, Any]]]]",
    safetensors.deserialize,  # pyright: ignore[reportUnknownMemberType]
)

Floats = NDArray[np.float32]
# Values are read as float32, which all of these fit into.
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """Adds scale * (x @ a) @ b to the output of a linear layer for the input x.

    a: (inputs, rank); b: (rank, outputs).
    """

    a: Floats
    b: Floats
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs), as the shape of the layer's weight."""
        return self.b.shape[1], self.a.shape[0]


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter that was read; its matrices are finite and belong together."""

    format: str
    """mlx_lm or peft."""
    digest: str
    """The SHA-256 digest of its files in hexadecimal."""
    weights_bytes: int
    """The size of its matrices in the file."""
    layers: Mapping[str, LoraLayer] = field(repr=False)
    """By the module's path as the files have it."""

    @property
    def rank(self) -> int:
        """The largest rank of its matrices."""
        return max(layer.rank for layer in self.layers.values())

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the changed modules within their layers, for example self_attn.q_proj."""
        return tuple(sorted({name_in_layer(path) for path in self.layers}))

    def check_against(self, shapes: Shapes) -> dict[str, LoraLayer]:
        """Its layers by the paths of the model's modules.

        shapes: (outputs, inputs) of each linear module in the model's layers, by its path.

        Raises: AdapterInvalid names a module that the model lacks, or a shape that differs.
        """
        fitted = fit_paths(self.layers, shapes)
        for path, layer in self.layers.items():
            if layer.shape != shapes[fitted[path]]:
                raise AdapterInvalid(
                    f"{path} has {_shape(layer.shape)}, but the model's has "
                    f"{_shape(shapes[fitted[path]])}: is the adapter of another model?"
                )
        return {fitted[path]: layer for path, layer in self.layers.items()}


def _shape(shape: tuple[int, int]) -> str:
    outputs, inputs = shape
    return f"{inputs} inputs and {outputs} outputs"


def read_adapter(directory: Path) -> AdapterFiles:
    """Reads, checks and digests the adapter of a directory.

    Raises: AdapterNotFound if files are missing; AdapterInvalid says what is not supported, or
    damaged; OSError.
    """
    content = _read(directory / CONFIG, MAX_JSON_BYTES)
    try:
        config = parse_config(parse_json_object(content))
    except UnusableJson as error:
        raise AdapterInvalid(f"{CONFIG} {error}") from error
    name = WEIGHTS[config.format]
    weights = _read(directory / name, MAX_WEIGHTS_BYTES)
    matrices = _matrices(name, weights, config)
    return AdapterFiles(
        format=config.format,
        digest=_digest({CONFIG: content, name: weights}),
        weights_bytes=sum(tensor.stored_bytes for tensor in matrices.values()),
        layers=_layers(matrices, config),
    )


def _digest(files: Mapping[str, bytes]) -> str:
    """Of the names, sizes and contents of files."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()


def _read(path: Path, max_bytes: int) -> bytes:
    """Raises: AdapterNotFound; AdapterInvalid if it is larger than max_bytes."""
    # A pipe could be waited for without end.
    if not path.is_file():
        raise AdapterNotFound(
            f"{path.parent} has no {path.name}; an adapter consists of {CONFIG} and "
            f"{WEIGHTS[MLX_LM]} (mlx-lm) or {WEIGHTS[PEFT]} (PEFT)"
        )
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise AdapterInvalid(f"{path.name} is larger than {max_bytes // 2**20} MiB")
    return content


@dataclass(frozen=True, slots=True)
class _Matrix:
    values: Floats
    stored_bytes: int


def _matrices(file: str, content: bytes, config: AdapterConfig) -> dict[tuple[str, str], _Matrix]:
    """The matrices by the path of their module and a or b, as the file has them."""
    try:
        tensors = _deserialize(content)
    except safetensors.SafetensorError as error:
        raise AdapterInvalid(f"{file} is damaged: {error}") from error
    matrices: dict[tuple[str, str], _Matrix] = {}
    for name, tensor in tensors:
        place = config.place_of(name)
        if place in matrices:
            raise AdapterInvalid(f"{file} has {'.lora_'.join(place)} twice")
        matrices[place] = _matrix(name, tensor)
    if not matrices:
        raise AdapterInvalid(f"{file} has no matrices")
    return matrices


def _matrix(name: str, tensor: Mapping[str, Any]) -> _Matrix:
    shape, dtype, data = tuple(tensor["shape"]), str(tensor["dtype"]), tensor["data"]
    if dtype not in _DTYPES:
        raise AdapterInvalid(f"{name} is {dtype}; supported are {', '.join(_DTYPES)}")
    if len(shape) == 3:
        raise AdapterInvalid(f"{name}: adapters of experts are not supported")
    if len(shape) != 2 or 0 in shape:
        raise AdapterInvalid(f"{name} must be a matrix, not of the shape {list(shape)}")
    stored = np.frombuffer(data, _DTYPES[dtype])
    # A bfloat16 is the upper half of a float32.
    wide = (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored
    values = wide.astype(np.float32, copy=False).reshape(shape)
    if not np.isfinite(values).all():
        raise AdapterInvalid(f"{name} holds NaN or infinite values")
    return _Matrix(values, len(data))


def _layers(
    matrices: Mapping[tuple[str, str], _Matrix], config: AdapterConfig
) -> dict[str, LoraLayer]:
    layers: dict[str, LoraLayer] = {}
    for path in sorted({path for path, _ in matrices}):
        a, b = matrices.get((path, "a")), matrices.get((path, "b"))
        if a is None or b is None:
            raise AdapterInvalid(f"{path} has only one of its two matrices")
        # PEFT stores both transposed.
        first, second = (a.values.T, b.values.T) if config.format == PEFT else (a.values, b.values)
        if first.shape[1] != second.shape[0]:
            raise AdapterInvalid(
                f"{path}: its matrices have the ranks {first.shape[1]} and {second.shape[0]}"
            )
        layers[path] = LoraLayer(first, second, config.scale_of(path, first.shape[1]))
    return layers
