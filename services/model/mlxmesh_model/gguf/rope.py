"""Converts the position scaling of a GGUF file to mlx-lm's `rope_scaling`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxmesh_model.gguf.metadata import Metadata, NotSupported

ROPE_FREQUENCIES = "rope_freqs.weight"

_MAX_FACTOR = 1e6
_TOLERANCE = 1e-3
# Constants of every Llama 3; only the factor and the original context length differ.
_LOW_FREQUENCY_FACTOR, _HIGH_FREQUENCY_FACTOR = 1.0, 4.0
_LLAMA3_CONTEXTS = (8192, 4096, 2048, 16384, 32768)


@dataclass(frozen=True, slots=True)
class Rope:
    """The rotary embedding before scaling."""

    theta: float
    head_dim: int
    context_tokens: int


def rope_scaling(
    metadata: Metadata, name: str, rope: Rope, divisors: Sequence[float] | None
) -> dict[str, Any] | None:
    """The scaling, or None without one; `divisors` are the frequency divisors of a Llama 3.

    Raises: BadFile, NotSupported.
    """
    prefix = f"{name}.rope.scaling"
    kind = metadata.text(f"{prefix}.type", default="none")
    old_factor = metadata.number(f"{name}.rope.scale_linear", 0, _MAX_FACTOR, default=1.0)
    factor = metadata.number(f"{prefix}.factor", 0, _MAX_FACTOR, default=old_factor) or 1.0
    if divisors is not None and any(divisor != 1 for divisor in divisors):
        if kind != "none" or factor != 1:
            raise NotSupported(f"it has both {ROPE_FREQUENCIES} and {prefix}")
        return _llama3(rope, np.asarray(divisors))
    if kind == "yarn":
        return _yarn(metadata, prefix, factor, rope)
    if kind not in ("none", "linear"):
        raise NotSupported(f"{prefix}.type is {kind}; none, linear and yarn are supported")
    return {"rope_type": "linear", "factor": factor} if factor != 1 else None


def _yarn(metadata: Metadata, prefix: str, factor: float, rope: Rope) -> dict[str, Any]:
    # Files since late 2025 use yarn_attn_factor, older ones attn_factor.
    for key, usual in {"attn_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_ext_factor": 1.0}.items():
        if metadata.number(f"{prefix}.{key}", -1, _MAX_FACTOR, default=usual) not in (usual, -1):
            raise NotSupported(
                f"{prefix}.{key} is not {usual:g}; mlx-lm's yarn has no such setting"
            )
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": metadata.integer(
            f"{prefix}.original_context_length", 1, rope.context_tokens
        ),
        "beta_fast": metadata.number(f"{prefix}.yarn_beta_fast", 0, _MAX_FACTOR, default=32.0),
        "beta_slow": metadata.number(f"{prefix}.yarn_beta_slow", 0, _MAX_FACTOR, default=1.0),
    }


def _llama3(rope: Rope, divisors: NDArray[np.float64]) -> dict[str, Any]:
    """The settings that these divisors were computed from; the file contains only the result."""
    factor = float(divisors.max())
    for original in _LLAMA3_CONTEXTS:
        expected = llama3_divisors(rope, factor, original)
        if np.allclose(divisors, expected, rtol=_TOLERANCE):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW_FREQUENCY_FACTOR,
                "high_freq_factor": _HIGH_FREQUENCY_FACTOR,
                "original_max_position_embeddings": original,
            }
    raise NotSupported(
        f"tensor {ROPE_FREQUENCIES} scales positions in a way that mlx-lm does not support"
    )


def llama3_divisors(rope: Rope, factor: float, original_tokens: int) -> NDArray[np.float64]:
    """The divisor of each frequency in Llama 3: `factor` for low ones, 1 for high ones.

    Source: modeling_rope_utils.py of transformers, _compute_llama3_parameters.
    """
    exponents = np.arange(0, rope.head_dim, 2) / rope.head_dim
    waves = original_tokens / (2 * np.pi * rope.theta**exponents)
    low, high = _LOW_FREQUENCY_FACTOR, _HIGH_FREQUENCY_FACTOR
    smooth = np.clip((waves - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
