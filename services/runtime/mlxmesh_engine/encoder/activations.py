"""The activation functions of encoder models.

Not mlx's own, which are compiled at run time: that needs a compiler on a CPU.
"""

import math
from collections.abc import Callable, Mapping

import mlx.core as mx

from mlxmesh_engine.encoder import cpu_kernels
from mlxmesh_shared.errors import FeatureNotSupported

Activation = Callable[[mx.array], mx.array]


def _gelu(x: mx.array) -> mx.array:
    if cpu_kernels.serves(x):
        return cpu_kernels.gelu(x)
    return x * (1 + mx.erf(x * (1 / math.sqrt(2)))) * 0.5


def _gelu_tanh(x: mx.array) -> mx.array:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1 + mx.tanh(inner))


_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": lambda x: mx.maximum(x, 0),
    "silu": lambda x: x * mx.sigmoid(x),
    "swish": lambda x: x * mx.sigmoid(x),
    "tanh": mx.tanh,
    "identity": lambda x: x,
}


def activation(name: str) -> Activation:
    """An activation by its name in a configuration. Raises: FeatureNotSupported."""
    if name not in _ACTIVATIONS:
        raise FeatureNotSupported(
            f"this model cannot be served: its activation {name} is not supported",
            field="model_dir",
        )
    return _ACTIVATIONS[name]
