"""The output of a generation as the values of tensors. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mlxmesh_gateway.kserve.inference import Inference
from mlxmesh_gateway.kserve.tensors import OUTPUTS, TEXT_OUTPUT, encode_bytes, encode_count

IGNORED = "mlxmesh-ignored-fields"
"""The parameter of a response that names the parameters that were ignored."""
_RUNNING = "None"
"""The finish_reason before the end, as in vLLM's back end."""


class Part(NamedTuple):
    """A part of a generation: its new text and tokens."""

    text: str
    tokens: int
    prompt_tokens: int
    finish_reason: str
    """Why the generation ended; empty before the end."""
    version: int
    """The version of the model."""
    last: bool
    """Whether nothing follows."""


def tensor_values(inference: Inference, part: Part, *, first: bool) -> Iterator[tuple[str, bytes]]:
    """The name and the encoded value of each output; first: of the first response."""
    for name, value in values(inference, part, first=first).items():
        encoded = encode_bytes(value.encode()) if isinstance(value, str) else encode_count(value)
        yield name, encoded


def values(inference: Inference, part: Part, *, first: bool) -> dict[str, str | int]:
    """The value of each output, by name."""
    return {name: _value(inference, part, name, first=first) for name in inference.outputs}


def _value(inference: Inference, part: Part, name: str, *, first: bool) -> str | int:
    if name == TEXT_OUTPUT:
        return inference.lead + part.text if first else part.text
    if name == "finish_reason":
        return part.finish_reason or _RUNNING
    assert name in OUTPUTS
    return part.prompt_tokens if name == "num_input_tokens" else part.tokens


def is_shown(inference: Inference, part: Part, *, first: bool) -> bool:
    """Whether a part of a stream is a response with outputs.

    The end has no text: it is one if its other outputs are asked for, or if nothing came before.
    """
    return not part.last or first or set(inference.outputs) != {TEXT_OUTPUT}
