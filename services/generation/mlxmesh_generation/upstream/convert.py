"""Reads the sampling options that engines get encoded."""

from typing import Any

from mlxmesh.common.v1 import sampling_pb2
from mlxmesh_generation.domain.request import SamplingOptions
from mlxmesh_generation.domain.upstream import Sampling

_FIELDS = (
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def sampling_of(options: SamplingOptions) -> Sampling:
    """The options that a request sets; numbers as their caller wrote them."""
    message = sampling_pb2.Sampling.FromString(options.encoded)
    given = {name: _short(getattr(message, name)) for name in _FIELDS if _has(message, name)}
    return Sampling(temperature=_short(message.temperature), seed=options.seed, **given)


def _has(message: sampling_pb2.Sampling, name: Any) -> bool:
    return message.HasField(name)


def _short(value: float) -> Any:
    """0.7 is 0.699999988079071 once it was a float of 32 bits."""
    return value if isinstance(value, int) else float(f"{value:.7g}")
