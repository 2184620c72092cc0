"""How a module of mlx_lm.models with the form of a `Decoder` differs from Llama's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlxmesh_engine.cpu.blocks import Activation


def _one(_: Any) -> float:
    return 1.0


def _none(_: Any) -> float | None:
    return None


def _no_window(_inner: Any, _layer: Any, _index: int) -> int | None:
    return None


def never(_: Any) -> bool:
    return False


def always(_: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class AttentionNames:
    inputs: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """The queries, keys and values; one name if one layer computes them all."""
    output: str = "o_proj"
    rope: str = "rope"
    query_norm: str | None = None
    key_norm: str | None = None


@dataclass(frozen=True, slots=True)
class UnitNames:
    gated: tuple[str, ...] = ("gate_proj", "up_proj")
    """The gate and what it gates; one name if one layer computes both."""
    down: str = "down_proj"


@dataclass(frozen=True, slots=True)
class ExpertsNames:
    """Names in a mixture of experts, and its router."""

    router: str = "gate"
    units: str = "switch_mlp"
    top_k: str = "top_k"
    normalize: Callable[[Any], bool] = always
    """Of the mixture's module: whether the weights of the chosen experts add up to one."""
    shared: str | None = None
    shared_gate: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Names are relative to the module that holds them and may be dotted paths."""

    inner: str = "model"
    embedding: str = "embed_tokens"
    layers: str = "layers"
    final_norm: str = "norm"
    head: str = "lm_head"
    attention: str = "self_attn"
    unit: str = "mlp"
    attention_norm: str | None = "input_layernorm"
    attention_output_norm: str | None = None
    unit_norm: str | None = "post_attention_layernorm"
    unit_output_norm: str | None = None
    attention_names: AttentionNames = field(default_factory=AttentionNames)
    unit_names: UnitNames = field(default_factory=UnitNames)
    experts_names: ExpertsNames | None = None

    tied: Callable[[Any], bool] = lambda model: model.args.tie_word_embeddings
    """Of the model: whether the embedding is the head as well."""
    activation: Activation = Activation.SILU
    gain_offset: float = 0.0
    """Added to the weights of all norms."""
    groups_of_heads: bool = False
    """Whether the queries that share a key and value are stored next to these."""
    norms_after_rotation: bool = False
    window: Callable[[Any, Any, int], int | None] = _no_window
    """Of the inner model, a layer, and its index; None if it sees all tokens."""
    plain_norm_epsilon: Callable[[Any], float | None] = _none
    """Of the attention: of a norm without a gain for each query and key; None without one."""
    attention_softcap: Callable[[Any], float | None] = _none
    """Of the attention."""
    query_growth: Callable[[Any], tuple[float, int] | None] = lambda _: None
    """Of the attention: `QueryGrowth`'s fields."""
    embedding_scale: Callable[[Any], float] = _one
    """Of the model."""
    residual_scale: Callable[[Any], float] = _one
    """Of the layer: multiplies what the attention and the unit add."""
    score_scale: Callable[[Any], float] = _one
    """Of the model."""
    score_softcap: Callable[[Any], float | None] = _none
    """Of the model."""
