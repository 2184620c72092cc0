"""Each family of the forward pass for CPUs against mlx-lm's pass: log-probabilities within 1e-4."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from mlx_lm.tuner.lora import LoRALinear
from numpy.typing import NDArray

from mlxmesh_engine.cpu.families import describe, is_supported, vocab_size
from mlxmesh_engine.cpu.family_table import FAMILIES, WRAPPERS
from mlxmesh_engine.cpu.forward import DecoderPass
from mlxmesh_engine.cpu.products import Layout
from tests.fakes.tiny_model import mx, nn, tree_flatten, tree_map
from tests.matrix.configs import NOT_TRIED, VOCAB_SIZE, architectures, config_of

_TOLERANCE = 1e-4
# The matrix's sliding windows have 16 tokens.
_LENGTHS = (40, 3, 17, 1)
# How many tokens each row is extended by: decode steps, and a mixed pass.
_STEPS = ((1, 1, 1, 1), (2, 1, 20, 5), (1, 1, 1, 1))

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 0.7}
_SU = {
    "type": "longrope",
    "short_factor": [1.0, 1.0, 1.0, 1.0],
    "long_factor": [1.0, 1.5, 2.0, 4.0],
    "original_max_position_embeddings": 64,
}
_MINISTRAL3 = {
    "rope_type": "default",
    "rope_theta": 1e4,
    "llama_4_scaling_beta": 0.5,
    "original_max_position_embeddings": 8,
}
_DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
_WINDOWS = ["full_attention", "sliding_attention"]
_GRANITE = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 4.0,
    "residual_multiplier": 0.3,
    "attention_multiplier": 0.2,
}
# Beside the matrix's configuration of each family.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted({*FAMILIES, *WRAPPERS})),
    ("ernie4_5", {"use_bias": True}),
    ("exaone", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    ("exaone4", {"sliding_window_pattern": None}),
    ("gemma3_text", {"sliding_window_pattern": 2, "rope_scaling": {"type": "linear", "factor": 8}}),
    ("gemma2", {"attn_logit_softcapping": 0.2, "final_logit_softcapping": 2.0}),
    ("gemma2", {"query_pre_attn_scalar": 1.0, "attn_logit_softcapping": 2.0, "head_dim": 16}),
    ("glm4", {"attention_bias": True, "rope_traditional": False}),
    ("granite", {**_GRANITE, "attention_bias": True, "mlp_bias": True}),
    ("granitemoe", {**_GRANITE, "attention_bias": True}),
    ("hunyuan_v1_dense", {"use_qk_norm": False, "attention_bias": True}),
    ("hunyuan_v1_dense", {"rope_scaling": {"alpha": 50.0, "factor": 1.0, "type": "dynamic"}}),
    ("internlm2", {"bias": False, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("internlm3", {"bias": True, "qkv_bias": True}),
    ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    ("llama", {"rope_traditional": True, "head_dim": 16}),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    ("llama", {"rope_scaling": _LLAMA3}),
    ("llama", {"rope_scaling": _YARN}),
    ("llama", {"rope_scaling": {"rope_type": "proportional", "partial_rotary_factor": 0.5}}),
    ("llama", {"layer_types": _WINDOWS}),
    ("llama4_text", {"use_qk_norm": False, "tie_word_embeddings": False}),
    ("mellum", {"norm_topk_prob": False, "tie_word_embeddings": False}),
    ("minicpm", {"scale_emb": 12.0, "dim_model_base": 8}),
    ("ministral3", {"rope_parameters": _MINISTRAL3}),
    ("mixtral", {"tie_word_embeddings": False, "num_experts_per_tok": 1}),
    ("olmo2", {"attention_bias": True, "mlp_bias": True}),
    ("olmoe", {"norm_topk_prob": False, "mlp_bias": True}),
    ("phi3", {"rope_scaling": _SU, "partial_rotary_factor": 1.0, "tie_word_embeddings": False}),
    ("qwen", {"no_bias": False}),
    ("qwen3_moe", {"norm_topk_prob": False, "mlp_only_layers": [0], "num_experts_per_tok": 3}),
    ("seed_oss", {"attention_bias": True, "attention_out_bias": True, "mlp_bias": True}),
    ("smollm3", {"no_rope_layers": [1, 0], "tie_word_embeddings": False}),
    ("smollm3", {"layer_types": _WINDOWS}),
    ("telechat3", {"rope_scaling": {**_YARN, "rope_type": "telechat3-yarn"}}),
]


def build(architecture: str, **changes: Any) -> Any:
    module: Any = import_module(f"mlx_lm.models.{architecture}")
    return module.Model(module.ModelArgs.from_dict(config_of(architecture, **changes)))


def write(folder: Path, architecture: str, changes: dict[str, Any]) -> Path:
    """A model directory with random weights, also for norms and biases."""
    keys = iter(mx.random.split(mx.random.key(7), 1000))
    parameters = build(architecture, **changes).parameters()

    def random(weight: mx.array) -> mx.array:
        # So large that attention looks at few tokens.
        drawn = mx.random.normal(weight.shape, key=next(keys)) * 0.25
        return drawn if weight.ndim > 1 else weight + drawn

    tensors = dict(tree_flatten(tree_map(random, parameters)))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    (folder / "config.json").write_text(json.dumps(config_of(architecture, **changes)))
    return folder


def load(folder: Path) -> Any:
    return cast("Any", import_module("mlx_lm.utils")).load_model(folder)[0]


def passes() -> list[list[list[int]]]:
    """The tokens of each row in each pass."""
    rng = np.random.default_rng(5)
    return [
        [rng.integers(3, VOCAB_SIZE, count).tolist() for count in counts]
        for counts in (_LENGTHS, *_STEPS)
    ]


def log_softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def of_mlx_lm(model: Any) -> list[NDArray[np.float64]]:
    """Log-probabilities of each row in each pass; every row is alone."""
    make_cache: Any = cast("Any", import_module("mlx_lm.models.cache")).make_prompt_cache
    caches = [make_cache(model) for _ in _LENGTHS]
    return [
        log_softmax(np.array(model(mx.array([tokens]), cache=cache)[0]))
        for rows in passes()
        for tokens, cache in zip(rows, caches, strict=True)
    ]


def of_decoder(model: Any, layout: Layout) -> list[NDArray[np.float64]]:
    """The same from all rows together."""
    decoder = DecoderPass(describe(model, layout))
    cache = decoder.new_cache([None] * len(_LENGTHS))
    found: list[NDArray[np.float64]] = []
    for rows in passes():
        scores = decoder.scores(decoder.hidden(rows, cache.sequences))
        ends = np.cumsum([len(tokens) for tokens in rows])
        found += np.split(log_softmax(scores), ends[:-1])
    return found


@pytest.mark.parametrize("blocked", [True, False])
@pytest.mark.parametrize(("architecture", "changes"), VARIANTS, ids=str)
def test_log_probabilities_are_those_of_mlx_lm(
    tmp_path: Path, architecture: str, changes: dict[str, Any], blocked: bool
) -> None:
    folder = write(tmp_path, architecture, changes)
    expected, model = of_mlx_lm(load(folder)), load(folder)
    assert is_supported(model)
    assert vocab_size(model) == VOCAB_SIZE
    found = of_decoder(model, Layout(blocked=blocked))
    for one, other in zip(expected, found, strict=True):
        assert np.abs(one - other).max() < _TOLERANCE


# Loading olmo ends the process without a package of its own.
_OTHERS = sorted({*architectures()} - {*FAMILIES, *WRAPPERS, *NOT_TRIED, "olmo"})


@pytest.mark.parametrize("architecture", _OTHERS)
def test_other_architectures_are_not_supported(architecture: str) -> None:
    assert not is_supported(build(architecture))


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {"rope_scaling": _DYNAMIC}),
        ("internlm3", {"rope_scaling": _DYNAMIC}),
        ("llama", {"head_dim": 5}),
        ("helium", {"head_dim": 8, "hidden_size": 36}),
    ],
    ids=str,
)
def test_other_variants_are_not_supported(architecture: str, changes: dict[str, Any]) -> None:
    assert not is_supported(build(architecture, **changes))


def quantize(model: Any) -> None:
    nn.quantize(model, group_size=32, bits=4)


def quantize_embedding(model: Any) -> None:
    model.model.embed_tokens = model.model.embed_tokens.to_quantized(group_size=32, bits=4)


def narrow(model: Any) -> None:
    model.set_dtype(mx.bfloat16)


def narrow_one(model: Any) -> None:
    model.model.norm.weight = model.model.norm.weight.astype(mx.float16)


def add_parameter(model: Any) -> None:
    model.model.layers[0].self_attn.sinks = mx.zeros(4)


def add_layer(model: Any) -> None:
    model.model.layers[0].adapter = nn.Linear(32, 32)


def replace_norm(model: Any) -> None:
    model.model.layers[0].input_layernorm = nn.LayerNorm(32, bias=False)


def replace_linear(model: Any) -> None:
    linear = model.model.layers[1].self_attn.q_proj
    model.model.layers[1].self_attn.q_proj = LoRALinear.from_base(linear)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mixtral"])
@pytest.mark.parametrize(
    "change",
    [
        quantize,
        quantize_embedding,
        narrow,
        narrow_one,
        add_parameter,
        add_layer,
        replace_norm,
        replace_linear,
    ],
)
def test_other_modules_and_parameters_are_not_supported(
    architecture: str, change: Callable[[Any], None]
) -> None:
    model = build(architecture)
    assert is_supported(model)
    change(model)
    assert not is_supported(model)


def test_missing_modules_are_not_supported() -> None:
    model = build("llama")
    del model.model.layers[0].mlp.up_proj
    assert not is_supported(model)


def test_a_tied_gemma3_has_no_head_of_its_own(tmp_path: Path) -> None:
    folder = write(tmp_path, "gemma3_text", {})
    tensors: Any = mx.load(str(folder / "model.safetensors"))
    del tensors["lm_head.weight"]
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    expected, model = of_mlx_lm(load(folder)), load(folder)
    assert is_supported(model)
    for one, other in zip(expected, of_decoder(model, Layout(blocked=True)), strict=True):
        assert np.abs(one - other).max() < _TOLERANCE


def test_the_model_is_consumed(tmp_path: Path) -> None:
    model = load(write(tmp_path, "mixtral", {}))
    describe(model, Layout(blocked=True))
    assert not tree_flatten(model.parameters())
