"""Rotary embeddings of mlx-lm as `Rotation`s. Source: mlx_lm/models/rope_utils.py, mlx-lm 0.32.2.

All that are the same for every length: dynamic scaling is not.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.cpu.blocks import Rotation
from mlxmesh_engine.cpu.weights import kind_of

_NO_ROTATION = "mlx_lm.models.smollm3.NoPE"
_PLAIN = "mlx.nn.layers.positional_encoding.RoPE"
_WITH_FREQUENCIES = {
    "mlx_lm.models.hunyuan_v1_dense.DynamicNTKAlphaRoPE",
    "mlx_lm.models.rope_utils.Llama3RoPE",
    "mlx_lm.models.rope_utils.ProportionalRoPE",
    "mlx_lm.models.rope_utils.SuScaledRoPE",
    "mlx_lm.models.rope_utils.YarnRoPE",
}


def is_known(rope: Any) -> bool:
    """Whether this module, or None, can be described."""
    return rope is None or kind_of(rope) in {_NO_ROTATION, _PLAIN, *_WITH_FREQUENCIES}


def rotated_dims(rope: Any) -> int:
    """How many of a head's first dimensions are rotated."""
    if rope is None or kind_of(rope) == _NO_ROTATION:
        return 0
    return rope.dims if hasattr(rope, "dims") else rope.dim


def pair_order(rope: Any, head_dims: int) -> NDArray[np.int64]:
    """The dimensions of a head in an order that makes the two of each rotated pair neighbours."""
    order, dims = np.arange(head_dims), rotated_dims(rope)
    # "Traditional" pairs are neighbours already; others are half the rotated dimensions apart.
    if not getattr(rope, "traditional", False):
        order[:dims] = order[:dims].reshape(2, -1).T.reshape(-1)
    return order


class Rotations:
    """The rotations of a model's layers: equal ones are one object, so each is computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, float], Rotation] = {}

    def of(self, rope: Any) -> Rotation | None:
        if rotated_dims(rope) == 0:
            return None
        rotation = Rotation(_frequencies(rope), _scale(rope))
        key = (rotation.frequencies.tobytes(), rotation.scale)
        return self._known.setdefault(key, rotation)


def _frequencies(rope: Any) -> NDArray[np.float64]:
    if kind_of(rope) == _PLAIN:
        exponents = np.arange(0, int(rope.dims), 2) / int(rope.dims)
        return float(rope.scale) * float(rope.base) ** -exponents
    # An infinite period is a frequency of zero.
    return 1 / np.array(rope._freqs, np.float64)


def _scale(rope: Any) -> float:
    """mlx-lm multiplies the rotated dimensions before it rotates them."""
    return float(getattr(rope, "mscale", getattr(rope, "_scale", 1.0)))
