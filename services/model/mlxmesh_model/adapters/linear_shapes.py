"""The shapes of a model's linear modules, from the headers of its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from mlxmesh_model.artifacts.folder import is_weights
from mlxmesh_model.artifacts.safetensors import NotSafetensors, read_tensors
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.host.json_file import UnusableJson, read_json_object

_WEIGHT, _SCALES = ".weight", ".scales"
# Their files have weights as (inputs, outputs).
_TRANSPOSED = ("gpt2",)
_WORD_BITS = 32


def linear_shapes(directory: Path) -> Mapping[str, tuple[int, int]]:
    """(outputs, inputs) of each module of a model that has a matrix, by its path; a quantized one's
    before the quantization.

    Raises: IllegalState when the directory is no longer valid, OSError.
    """
    try:
        config = read_json_object(directory / "config.json")
        paths = (path for path in directory.iterdir() if is_weights(path.name))
        shapes = {tensor.name: tensor.shape for path in paths for tensor in read_tensors(path)}
    except (NotSafetensors, UnusableJson) as error:
        raise IllegalState(f"{directory}: {error}; register the model again") from error
    quantization = _object(config.get("quantization"))
    transposed = config.get("model_type") in _TRANSPOSED
    found: dict[str, tuple[int, int]] = {}
    for name, shape in shapes.items():
        if not name.endswith(_WEIGHT) or len(shape) != 2:
            continue
        path = name.removesuffix(_WEIGHT)
        outputs, inputs = reversed(shape) if transposed else shape
        if path + _SCALES in shapes:
            inputs = inputs * _WORD_BITS // _bits(quantization, path)
        found[path] = outputs, inputs
    return found


def _bits(quantization: Mapping[str, Any], path: str) -> int:
    """The bits of a module, which may differ from the default; `inspect` checked them."""
    bits = _object(quantization.get(path)).get("bits") or quantization.get("bits")
    return bits if isinstance(bits, int) and 0 < bits <= _WORD_BITS else _WORD_BITS


def _object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
