"""What a decoder consists of: one description for all families, filled in by `families`.

Shapes: values are (tokens, features), float32. Gains of norms that come before a product are part
of its weights, as is the scale of the attention; within each head the two dimensions of a rotated
pair are neighbours, in queries and keys alike, which leaves the scores as they are.
"""

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.cpu.adapters import AdaptedProducts
from mlxmesh_engine.cpu.products import Floats, Product


@dataclass(frozen=True, slots=True)
class Norm:
    """Divides by the root of the mean of the squares, then multiplies by the gain."""

    epsilon: float
    gain: Floats | None = None
    """(features,); None if the product that follows includes it."""


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """Rotary position embedding of the first pairs of each head. Compared by identity."""

    frequencies: NDArray[np.float64]
    """Radians per position for each rotated pair."""
    scale: float = 1.0
    """Multiplies the rotated dimensions."""


@dataclass(frozen=True, slots=True)
class QueryGrowth:
    """Queries are multiplied by 1 + beta * log(1 + position // period_tokens), as in Llama 4."""

    beta: float
    period_tokens: int


@dataclass(frozen=True, slots=True)
class Attention:
    heads: int
    kv_heads: int
    head_dims: int
    inputs: Product
    """The queries, keys and values of all heads, in this order."""
    output: Product
    query_norm: Norm | None = None
    """Of each head, gain (head_dims,), or of all heads together, gain (heads * head_dims,)."""
    key_norm: Norm | None = None
    norms_after_rotation: bool = False
    rotation: Rotation | None = None
    query_growth: QueryGrowth | None = None
    window: int | None = None
    """How many keys up to its own a query sees; None for all."""
    softcap: float | None = None
    """Scores become softcap * tanh(scores / softcap)."""


class Activation(Enum):
    """The function of the gate."""

    SILU = "silu"
    GELU_TANH = "gelu, approximated by tanh"
    GELU_ERF = "gelu"


@dataclass(frozen=True, slots=True)
class GatedUnit:
    gated: Product
    """The gate, then the values that it gates."""
    down: Product
    activation: Activation = Activation.SILU


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture: each token goes through the units with the highest scores."""

    router: Product
    units: tuple[GatedUnit, ...]
    per_token: int
    normalize: bool
    """Whether the weights are a softmax over the chosen units only, or over all."""
    shared: GatedUnit | None = None
    """A unit for all tokens, in addition."""
    shared_gate: Product | None = None
    """Its sigmoid multiplies the output of the shared unit."""


@dataclass(frozen=True, slots=True)
class Block:
    attention_norm: Norm | None
    """None if the attention reads the hidden states as they are; also of `unit_norm`."""
    attention: Attention
    unit_norm: Norm | None
    unit: GatedUnit | Experts
    attention_output_norm: Norm | None = None
    """Applied to the attention's output before it is added."""
    unit_output_norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class Decoder:
    """A whole model."""

    embedding: Product
    """Its weights' rows are the embeddings of the tokens."""
    blocks: tuple[Block, ...]
    final_norm: Norm
    head: Product
    embedding_scale: float = 1.0
    score_scale: float = 1.0
    score_softcap: float | None = None
    adapters: AdaptedProducts = field(default_factory=AdaptedProducts)
    """Those of its products that can have adapters."""

    @property
    def vocab_size(self) -> int:
        return self.head.outputs
