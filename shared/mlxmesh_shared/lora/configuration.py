"""The configuration of an adapter: its format, its scales, and what of it is not supported. Pure.

Source: mlx_lm/tuner of mlx-lm 0.32.2; peft/tuners/lora of PEFT 0.17.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from mlxmesh_shared.errors import AdapterInvalid

MLX_LM, PEFT = "mlx_lm", "peft"

_PEFT_NAME = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.\w+)?\.weight")
_MLX_LM_NAME = re.compile(r"(.+)\.lora_([ab])")
# What takes more than linear time is made of these.
_REPEATS_OR_CHOOSES = re.compile(r"[*+?{(|]")
_MAX_PATTERNS = 2000
_MAX_PATTERN_CHARACTERS = 500
# Of PEFT's ways to begin, those that leave the model's own weights as they are.
_PLAIN_BEGINNINGS = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """How to read the tensors of an adapter."""

    format: str
    """mlx_lm or peft."""
    scale_of: Callable[[str, int], float]
    """Of a module's path and the rank of its matrices. Raises: AdapterInvalid."""

    def place_of(self, tensor: str) -> tuple[str, str]:
        """The path of the tensor's module, and a or b. Raises: AdapterInvalid."""
        pattern = _PEFT_NAME if self.format == PEFT else _MLX_LM_NAME
        if (found := pattern.fullmatch(tensor)) is None:
            raise AdapterInvalid(_why_foreign(tensor))
        if ".experts." in f".{found[1]}.":
            raise AdapterInvalid(f"{found[1]}: adapters of experts are not supported")
        return found[1], found[2].lower()


def _why_foreign(tensor: str) -> str:
    """Says why a tensor is not a matrix of LoRA."""
    name = tensor[:200]
    if "lora_magnitude_vector" in tensor or tensor.endswith(".m"):
        return f"{name}: DoRA is not supported; train with LoRA"
    if "lora_embedding" in tensor:
        return f"{name}: adapters of embeddings are not supported"
    if tensor.endswith(".bias"):
        return f"{name}: adapters with biases are not supported"
    return f"{name}: not a matrix of LoRA; adapters with whole modules are not supported"


def parse_config(config: Mapping[str, Any]) -> AdapterConfig:
    """Reads adapter_config.json. Raises: AdapterInvalid names what is not supported."""
    if "peft_type" in config:
        return AdapterConfig(PEFT, _peft_scales(config))
    return AdapterConfig(MLX_LM, _mlx_lm_scale(config))


def _mlx_lm_scale(config: Mapping[str, Any]) -> Callable[[str, int], float]:
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        raise AdapterInvalid(f"fine_tune_type {kind!r} is not supported; it must be 'lora'")
    parameters = config.get("lora_parameters")
    if not isinstance(parameters, dict):
        raise AdapterInvalid("adapter_config.json has neither peft_type nor lora_parameters")
    values = cast("dict[str, Any]", parameters)
    scale, rank = _number(values, "scale"), _count(values, "rank")

    def scale_of(path: str, actual: int) -> float:
        _check_rank(path, actual, rank)
        return scale

    return scale_of


def _peft_scales(config: Mapping[str, Any]) -> Callable[[str, int], float]:
    _check_peft_features(config)
    rank, alpha = _count(config, "r"), _number(config, "lora_alpha")
    ranks, alphas = _patterns(config, "rank_pattern"), _patterns(config, "alpha_pattern")
    stabilized = config.get("use_rslora", False) is True

    def scale_of(path: str, actual: int) -> float:
        _check_rank(path, actual, ranks(path, rank))
        divisor = math.sqrt(actual) if stabilized else actual
        return alphas(path, alpha) / divisor

    return scale_of


def _check_peft_features(config: Mapping[str, Any]) -> None:
    if (kind := config["peft_type"]) != "LORA":
        raise AdapterInvalid(f"peft_type {kind!r} is not supported; it must be 'LORA'")
    if (bias := config.get("bias", "none")) != "none":
        raise AdapterInvalid(f"bias {bias!r} is not supported; it must be 'none'")
    if (beginning := config.get("init_lora_weights")) not in _PLAIN_BEGINNINGS:
        raise AdapterInvalid(
            f"init_lora_weights {beginning!r} changes the model's own weights, so it is not "
            "supported; convert the adapter to plain LoRA when it is saved"
        )
    for name in (
        "use_dora",
        "lora_bias",
        "modules_to_save",
        "target_parameters",
        "trainable_token_indices",
        "layer_replication",
        "alora_invocation_tokens",
        "arrow_config",
        "use_qalora",
        "use_bdlora",
    ):
        if config.get(name):
            raise AdapterInvalid(f"{name} is not supported")


def _check_rank(path: str, actual: int, configured: float) -> None:
    if actual != configured:
        raise AdapterInvalid(
            f"{path}: its rank is {actual}, but adapter_config.json says {configured:g}"
        )


def _number(config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise AdapterInvalid(f"adapter_config.json: {name} must be a number")
    return float(value)


def _is_finite(value: float) -> bool:
    return abs(value) < 1e30


def _count(config: Mapping[str, Any], name: str) -> int:
    value = _number(config, name)
    if value < 1 or value != int(value):
        raise AdapterInvalid(f"adapter_config.json: {name} must be a whole number of at least 1")
    return int(value)


def _patterns(config: Mapping[str, Any], name: str) -> Callable[[str, float], float]:
    """A function of a module's path and the default: the value of the first pattern that fits."""
    values: Any = config.get(name) or {}
    if not isinstance(values, dict) or len(cast("dict[str, Any]", values)) > _MAX_PATTERNS:
        raise AdapterInvalid(f"adapter_config.json: {name} must be an object of numbers")
    numbers = cast("dict[str, Any]", values)
    compiled = [(_pattern(name, text), _number(numbers, text)) for text in numbers]

    def value_of(path: str, default: float) -> float:
        fitting = (value for pattern, value in compiled if pattern.match(path))
        return next(fitting, default)

    return value_of


def _pattern(name: str, text: str) -> re.Pattern[str]:
    if _REPEATS_OR_CHOOSES.search(text) or len(text) > _MAX_PATTERN_CHARACTERS:
        raise AdapterInvalid(
            f"{name}: the pattern {text[:200]!r} is not supported; write out what it stands for"
        )
    try:
        return re.compile(rf"(?:.*\.)?({text})$")
    except re.error as error:
        raise AdapterInvalid(f"{name}: {text[:200]!r} is not a pattern") from error
