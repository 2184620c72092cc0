"""Reads the weights of an encoder model, under one set of names for all architectures."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.dtype_policy import Weights
from mlxmesh_shared.errors import InvalidArgument

Arrays = dict[str, mx.array]

_load = cast("Callable[[str], Arrays]", mx.load)
# Other names for the layers of BERT, which those of RoBERTa and XLM-R have too.
_RENAMED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "distilbert": (
        (r"^transformer\.layer\.", "encoder.layer."),
        (r"\.attention\.q_lin\.", ".attention.self.query."),
        (r"\.attention\.k_lin\.", ".attention.self.key."),
        (r"\.attention\.v_lin\.", ".attention.self.value."),
        (r"\.attention\.out_lin\.", ".attention.output.dense."),
        (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
        (r"\.ffn\.lin1\.", ".intermediate.dense."),
        (r"\.ffn\.lin2\.", ".output.dense."),
        (r"\.output_layer_norm\.", ".output.LayerNorm."),
    ),
    "mpnet": (
        (r"\.attention\.attn\.q\.", ".attention.self.query."),
        (r"\.attention\.attn\.k\.", ".attention.self.key."),
        (r"\.attention\.attn\.v\.", ".attention.self.value."),
        (r"\.attention\.attn\.o\.", ".attention.output.dense."),
        (r"\.attention\.LayerNorm\.", ".attention.output.LayerNorm."),
    ),
}
_PREFIX = re.compile(r"^(bert|roberta|xlm_roberta|distilbert|mpnet)\.")
_OLD_NORM = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))


def read_arrays(files: Iterable[Path]) -> Arrays:
    """The arrays of safetensors files, not evaluated. Raises: InvalidArgument."""
    arrays: Arrays = {}
    for path in files:
        try:
            arrays |= _load(str(path))
        except (RuntimeError, ValueError) as error:
            raise InvalidArgument(f"{path} cannot be read: {error}", field="model_dir") from error
    return arrays


def model_arrays(model_dir: Path) -> Arrays:
    """The arrays of a model's own files, without those of modules."""
    return read_arrays(sorted(model_dir.glob("model*.safetensors")))


def described(arrays: Arrays, config: Mapping[str, Any]) -> Weights:
    """The weights as stored in the files; evaluates nothing."""
    floats = {n: a for n, a in arrays.items() if mx.issubdtype(a.dtype, mx.floating)}
    sizes: dict[str, int] = {}
    for array in floats.values():
        name = str(array.dtype).removeprefix("mlx.core.")
        sizes[name] = sizes.get(name, 0) + array.size
    bits = int(_quantization(config).get("bits", 0))
    packed = (
        sum(a.size * 32 // bits for a in arrays.values() if a.dtype == mx.uint32) if bits else 0
    )
    return Weights(
        dtype=max(sizes, key=lambda name: sizes[name], default="float32"),
        quantized_bits=bits,
        values=sum(a.size for a in floats.values()) + packed,
    )


def plain(arrays: Arrays, config: Mapping[str, Any]) -> Arrays:
    """The arrays with packed weights unpacked, as mlx-lm's `quantization` describes them."""
    quantization = _quantization(config)
    if not quantization:
        return arrays
    unpacked: Arrays = {}
    for name, array in arrays.items():
        layer, _, part = name.rpartition(".")
        if f"{layer}.scales" not in arrays or part not in ("weight", "scales", "biases"):
            unpacked[name] = array
        elif part == "weight":
            settings: Mapping[str, Any] = quantization | _object(quantization.get(layer))
            unpacked[name] = mx.dequantize(
                array,
                arrays[f"{layer}.scales"],
                arrays.get(f"{layer}.biases"),
                group_size=settings["group_size"],
                bits=settings["bits"],
                mode=settings.get("mode", "affine"),
            )
    return unpacked


def _quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    return _object(config.get("quantization"))


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def renamed(arrays: Arrays, model_type: str) -> Arrays:
    """The arrays of a bidirectional model under the names of BERT's."""
    rules = (*_RENAMED.get(model_type, ()), *_OLD_NORM)

    def name(own: str) -> str:
        own = _PREFIX.sub("", own)
        for pattern, replacement in rules:
            own = re.sub(pattern, replacement, own)
        return own

    return {name(own): array for own, array in arrays.items()}


def check_finite(arrays: Arrays, where: str) -> None:
    """Evaluates the arrays. Raises: InvalidArgument if one holds NaN or an infinity."""
    floats = {n: a for n, a in arrays.items() if mx.issubdtype(a.dtype, mx.floating)}
    finite = {name: mx.all(mx.isfinite(array)) for name, array in floats.items()}
    evaluate([*arrays.values(), *finite.values()])
    for name, good in finite.items():
        if not good.item():
            raise InvalidArgument(
                f"the tensor {name} of {where} holds NaN or infinite values in this dtype; "
                "choose another dtype, or download the model again",
                field="model_dir",
            )
