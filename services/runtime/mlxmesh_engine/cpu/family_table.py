"""How each module of mlx_lm.models that has the form of a `Decoder` names its parts, and where its
arithmetic differs from Llama's. Source: mlx_lm/models, mlx-lm 0.32.2.

Not here, so served by mlx-lm's own pass: layer norms, units without a gate, parallel residuals,
latent attention, attention sinks, recurrent layers, and routers with groups or biases.
"""

from dataclasses import replace
from typing import Any

import mlx.core as mx

from mlxmesh_engine.cpu.blocks import Activation
from mlxmesh_engine.cpu.family import (
    AttentionNames,
    ExpertsNames,
    Family,
    UnitNames,
    always,
    never,
)


def _sliding_window(inner: Any, layer: Any, _index: int) -> int | None:
    return inner.sliding_window if layer.use_sliding else None


def _gemma3_window(inner: Any, layer: Any, _index: int) -> int | None:
    return inner.window_size if layer.self_attn.is_sliding else None


def _exaone4_window(inner: Any, layer: Any, _index: int) -> int | None:
    return inner.window_size if layer.self_attn.is_local else None


def _olmo3_window(inner: Any, _layer: Any, index: int) -> int | None:
    return None if inner.layer_types[index] == "full_attention" else inner.sliding_window


def _mellum_window(inner: Any, _layer: Any, index: int) -> int | None:
    full = inner.args.layer_types[index] == "full_attention"
    return None if full else inner.args.sliding_window


def _root_of_hidden(model: Any) -> float:
    return model.args.hidden_size**0.5


def _rounded_root_of_hidden(model: Any) -> float:
    """Gemma 3 was trained with this constant in bfloat16."""
    rounded: Any = mx.array(_root_of_hidden(model), mx.bfloat16)
    return float(rounded.item())


def _gemma2_attention_softcap(attention: Any) -> float:
    return attention.attn_logit_softcapping


def _gemma2_score_softcap(model: Any) -> float:
    return model.final_logit_softcapping


def _tied_by_model(model: Any) -> bool:
    return model.tie_word_embeddings


def _ministral3_query_growth(attention: Any) -> tuple[float, int]:
    return attention.scaling_beta, attention.original_max_position_embeddings


def _llama4_norm_epsilon(attention: Any) -> float | None:
    return attention.rms_norm_eps if attention.use_qk_norm else None


def _minicpm_residual_scale(layer: Any) -> float:
    return layer.scale_depth / layer.num_hidden_layers**0.5


def _minicpm_score_scale(model: Any) -> float:
    args = model.args
    return 1.0 if args.tie_word_embeddings else args.dim_model_base / args.hidden_size


_NORMALIZED_IF_SET = ExpertsNames(normalize=lambda unit: unit.norm_topk_prob)
_HEAD_NORMS = AttentionNames(query_norm="q_norm", key_norm="k_norm")
_LLAMA = Family()
_LLAMA_WITH_WINDOWS = Family(window=_sliding_window)
_QWEN3 = Family(attention_names=_HEAD_NORMS)
_NORMS_OF_OUTPUTS_ONLY = Family(
    attention_names=_HEAD_NORMS,
    attention_norm=None,
    attention_output_norm="post_attention_layernorm",
    unit_norm=None,
    unit_output_norm="post_feedforward_layernorm",
)
_FUSED_GATE = UnitNames(gated=("gate_up_proj",))
_GEMMA = Family(
    tied=always,
    activation=Activation.GELU_ERF,
    gain_offset=1.0,
    embedding_scale=_root_of_hidden,
)
_GEMMA_WITH_NORMS_OF_OUTPUTS = replace(
    _GEMMA,
    activation=Activation.GELU_TANH,
    attention_output_norm="post_attention_layernorm",
    unit_norm="pre_feedforward_layernorm",
    unit_output_norm="post_feedforward_layernorm",
)
_GRANITE = Family(
    embedding_scale=lambda model: model.model.embedding_multiplier,
    residual_scale=lambda layer: layer.residual_multiplier,
    score_scale=lambda model: 1 / model.logits_scaling,
)

FAMILIES: dict[str, Family] = {
    "ernie4_5": _LLAMA,
    "exaone": Family(
        inner="transformer",
        embedding="wte",
        layers="h",
        final_norm="ln_f",
        attention="attn.attention",
        attention_norm="ln_1",
        unit_norm="ln_2",
        attention_names=AttentionNames(output="out_proj"),
        unit_names=UnitNames(gated=("c_fc_0", "c_fc_1"), down="c_proj"),
    ),
    "exaone4": replace(_NORMS_OF_OUTPUTS_ONLY, window=_exaone4_window),
    "gemma": _GEMMA,
    "gemma2": replace(
        _GEMMA_WITH_NORMS_OF_OUTPUTS,
        attention_softcap=_gemma2_attention_softcap,
        score_softcap=_gemma2_score_softcap,
    ),
    "gemma3_text": replace(
        _GEMMA_WITH_NORMS_OF_OUTPUTS,
        attention_names=_HEAD_NORMS,
        tied=_tied_by_model,
        embedding_scale=_rounded_root_of_hidden,
        window=_gemma3_window,
    ),
    "glm": Family(unit_names=_FUSED_GATE),
    "glm4": Family(
        unit_names=_FUSED_GATE,
        attention_output_norm="post_self_attn_layernorm",
        unit_output_norm="post_mlp_layernorm",
        tied=never,
    ),
    "granite": _GRANITE,
    "granitemoe": replace(
        _GRANITE,
        unit="block_sparse_moe",
        experts_names=ExpertsNames(router="router.layer", top_k="router.top_k"),
    ),
    "helium": _LLAMA,
    "hunyuan_v1_dense": Family(
        attention_names=AttentionNames(query_norm="query_layernorm", key_norm="key_layernorm"),
        norms_after_rotation=True,
    ),
    "internlm2": Family(
        embedding="tok_embeddings",
        head="output",
        attention="attention",
        unit="feed_forward",
        attention_norm="attention_norm",
        unit_norm="ffn_norm",
        attention_names=AttentionNames(inputs=("wqkv",), output="wo"),
        unit_names=UnitNames(gated=("w1", "w3"), down="w2"),
        groups_of_heads=True,
    ),
    "internlm3": _LLAMA,
    "llama": _LLAMA_WITH_WINDOWS,
    "llama4_text": Family(
        head="output",
        unit="feed_forward",
        tied=_tied_by_model,
        plain_norm_epsilon=_llama4_norm_epsilon,
    ),
    "mellum": replace(_QWEN3, experts_names=_NORMALIZED_IF_SET, window=_mellum_window),
    "mimo": _LLAMA,
    "minicpm": Family(
        embedding_scale=lambda model: model.args.scale_emb,
        residual_scale=_minicpm_residual_scale,
        score_scale=_minicpm_score_scale,
    ),
    "ministral3": replace(
        _LLAMA_WITH_WINDOWS,
        query_growth=_ministral3_query_growth,
    ),
    "mixtral": Family(
        unit="block_sparse_moe",
        experts_names=ExpertsNames(top_k="num_experts_per_tok"),
    ),
    "olmo2": _NORMS_OF_OUTPUTS_ONLY,
    "olmo3": replace(_NORMS_OF_OUTPUTS_ONLY, window=_olmo3_window),
    "olmoe": replace(_QWEN3, experts_names=_NORMALIZED_IF_SET),
    "phi3": Family(
        attention_names=AttentionNames(inputs=("qkv_proj",)),
        unit_names=_FUSED_GATE,
    ),
    "qwen": Family(
        inner="transformer",
        embedding="wte",
        layers="h",
        final_norm="ln_f",
        attention="attn",
        attention_norm="ln_1",
        unit_norm="ln_2",
        attention_names=AttentionNames(inputs=("c_attn",), output="c_proj", rope="rotary_emb"),
        unit_names=UnitNames(gated=("w2", "w1"), down="c_proj"),
        tied=never,
    ),
    "qwen2": _LLAMA,
    "qwen2_moe": Family(
        experts_names=ExpertsNames(
            normalize=never, shared="shared_expert", shared_gate="shared_expert_gate"
        ),
        tied=never,
    ),
    "qwen3": _QWEN3,
    "qwen3_moe": replace(_QWEN3, experts_names=_NORMALIZED_IF_SET),
    "seed_oss": _LLAMA,
    "smollm3": _LLAMA_WITH_WINDOWS,
    "telechat3": _LLAMA,
}

TEXT_MODEL = "language_model"
# Multimodal models of which mlx-lm loads only the text model, under this name.
WRAPPERS = frozenset(
    {"gemma3", "mistral3", "pixtral", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe"},
)
