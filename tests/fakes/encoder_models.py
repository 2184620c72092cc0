"""Small random encoder models as directories, and what their vectors should be.

The references are numpy in float64, one text at a time, from the weights in the files and the
papers' formulas; they share no code with the engine.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes.safetensors_files import read_tensors, write_tensors

Array = NDArray[np.float64]
VOCAB = 120
CONTEXT = 64
HIDDEN, LAYERS, HEADS, INNER = 32, 3, 4, 48
YES, NO = 7, 9
_BASE: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": CONTEXT,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "bert": {**_BASE, "model_type": "bert", "type_vocab_size": 2, "pad_token_id": 0},
    "xlm-roberta": {
        **_BASE,
        "model_type": "xlm-roberta",
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": CONTEXT + 2,
    },
    "roberta": {
        **_BASE,
        "model_type": "roberta",
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "max_position_embeddings": CONTEXT + 2,
        "hidden_act": "gelu_new",
    },
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": VOCAB,
        "dim": HIDDEN,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_dim": INNER,
        "activation": "gelu",
        "max_position_embeddings": CONTEXT,
    },
    "mpnet": {
        **_BASE,
        "model_type": "mpnet",
        "pad_token_id": 1,
        "max_position_embeddings": CONTEXT + 2,
        "relative_attention_num_buckets": 32,
    },
    "qwen3": {
        "model_type": "qwen3",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
}
# The names of a layer's parts: query, key, value, output, its norm, inner, outer, its norm.
_BERT_PARTS = (
    "encoder.layer.{}.attention.self.query",
    "encoder.layer.{}.attention.self.key",
    "encoder.layer.{}.attention.self.value",
    "encoder.layer.{}.attention.output.dense",
    "encoder.layer.{}.attention.output.LayerNorm",
    "encoder.layer.{}.intermediate.dense",
    "encoder.layer.{}.output.dense",
    "encoder.layer.{}.output.LayerNorm",
)
_PARTS: Mapping[str, Sequence[str]] = {
    "bert": _BERT_PARTS,
    "roberta": _BERT_PARTS,
    "xlm-roberta": _BERT_PARTS,
    "distilbert": (
        "transformer.layer.{}.attention.q_lin",
        "transformer.layer.{}.attention.k_lin",
        "transformer.layer.{}.attention.v_lin",
        "transformer.layer.{}.attention.out_lin",
        "transformer.layer.{}.sa_layer_norm",
        "transformer.layer.{}.ffn.lin1",
        "transformer.layer.{}.ffn.lin2",
        "transformer.layer.{}.output_layer_norm",
    ),
    "mpnet": (
        "encoder.layer.{}.attention.attn.q",
        "encoder.layer.{}.attention.attn.k",
        "encoder.layer.{}.attention.attn.v",
        "encoder.layer.{}.attention.attn.o",
        "encoder.layer.{}.attention.LayerNorm",
        "encoder.layer.{}.intermediate.dense",
        "encoder.layer.{}.output.dense",
        "encoder.layer.{}.output.LayerNorm",
    ),
}
_HEADS: Mapping[str, tuple[str, str]] = {
    "bert": ("pooler.dense", "classifier"),
    "distilbert": ("pre_classifier", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj"),
    "mpnet": ("classifier.dense", "classifier.out_proj"),
}
_SHIFTED = ("roberta", "xlm-roberta", "mpnet")


def write_encoder(
    path: Path,
    model_type: str,
    *,
    labels: int = 0,
    modules: Sequence[tuple[str, Mapping[str, Any]]] | None = None,
    prefix: str = "",
    seed: int = 0,
    **config: Any,
) -> Path:
    """A model directory. labels: a cross-encoder's. modules: type and configuration of each after
    the Transformer; Dense gets random weights. prefix: before the names of the model's tensors.
    """
    path.mkdir(parents=True, exist_ok=True)
    settings = {**CONFIGS[model_type], **config}
    if labels:
        settings["architectures"] = ["ForSequenceClassification"]
        settings["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
    rng = np.random.default_rng(seed)
    tensors = _qwen3(settings, rng) if model_type == "qwen3" else _bert(settings, rng)
    tensors = {prefix + name: value for name, value in tensors.items()}
    if labels and model_type != "qwen3":
        inner, outer = _HEADS[model_type]
        # BERT's pooler is a part of the model, the other layers are not.
        first = prefix if inner.startswith("pooler") else ""
        tensors |= _linear(rng, first + inner, HIDDEN, HIDDEN) | _linear(rng, outer, HIDDEN, labels)
    elif labels:
        tensors["score.weight"] = _normal(rng, labels, HIDDEN)
    write_tensors(path / "model.safetensors", tensors)
    (path / "config.json").write_text(json.dumps(settings))
    vocabulary = {"yes": YES, "no": NO}
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    if modules is not None:
        _write_modules(path, modules, rng)
    return path


def _write_modules(
    path: Path, modules: Sequence[tuple[str, Mapping[str, Any]]], rng: np.random.Generator
) -> None:
    listed = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, (kind, config) in enumerate(modules, start=1):
        folder = path / f"{index}_{kind}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        listed.append(
            {"idx": index, "path": folder.name, "type": f"sentence_transformers.models.{kind}"}
        )
        if kind == "Dense":
            own = _linear(rng, "linear", config["in_features"], config["out_features"])
            write_tensors(folder / "model.safetensors", own)
    (path / "modules.json").write_text(json.dumps(listed))


def _normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return (rng.standard_normal(shape) * 0.3).astype(np.float32)


def _linear(
    rng: np.random.Generator, name: str, inputs: int, outputs: int
) -> dict[str, NDArray[np.float32]]:
    return {f"{name}.weight": _normal(rng, outputs, inputs), f"{name}.bias": _normal(rng, outputs)}


def _norm(rng: np.random.Generator, name: str) -> dict[str, NDArray[np.float32]]:
    return {f"{name}.weight": 1 + _normal(rng, HIDDEN), f"{name}.bias": _normal(rng, HIDDEN)}


def _bert(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    positions = config["max_position_embeddings"]
    tensors = {
        "embeddings.word_embeddings.weight": _normal(rng, VOCAB, HIDDEN),
        "embeddings.position_embeddings.weight": _normal(rng, positions, HIDDEN),
        **_norm(rng, "embeddings.LayerNorm"),
    }
    if types := config.get("type_vocab_size"):
        tensors["embeddings.token_type_embeddings.weight"] = _normal(rng, types, HIDDEN)
    if config["model_type"] == "mpnet":
        tensors["encoder.relative_attention_bias.weight"] = _normal(rng, 32, HEADS)
    for layer in range(LAYERS):
        names = [name.format(layer) for name in _PARTS[config["model_type"]]]
        for name in names[:4]:
            tensors |= _linear(rng, name, HIDDEN, HIDDEN)
        tensors |= _norm(rng, names[4]) | _norm(rng, names[7])
        tensors |= _linear(rng, names[5], HIDDEN, INNER) | _linear(rng, names[6], INNER, HIDDEN)
    return tensors


def _qwen3(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    dims, heads, kv_heads = config["head_dim"], HEADS, config["num_key_value_heads"]
    tensors = {
        "embed_tokens.weight": _normal(rng, VOCAB, HIDDEN),
        "norm.weight": 1 + _normal(rng, HIDDEN),
    }
    for layer in range(LAYERS):
        name = f"layers.{layer}."
        tensors |= {
            f"{name}self_attn.q_proj.weight": _normal(rng, heads * dims, HIDDEN),
            f"{name}self_attn.k_proj.weight": _normal(rng, kv_heads * dims, HIDDEN),
            f"{name}self_attn.v_proj.weight": _normal(rng, kv_heads * dims, HIDDEN),
            f"{name}self_attn.o_proj.weight": _normal(rng, HIDDEN, heads * dims),
            f"{name}self_attn.q_norm.weight": 1 + _normal(rng, dims),
            f"{name}self_attn.k_norm.weight": 1 + _normal(rng, dims),
            f"{name}mlp.gate_proj.weight": _normal(rng, INNER, HIDDEN),
            f"{name}mlp.up_proj.weight": _normal(rng, INNER, HIDDEN),
            f"{name}mlp.down_proj.weight": _normal(rng, HIDDEN, INNER),
            f"{name}input_layernorm.weight": 1 + _normal(rng, HIDDEN),
            f"{name}post_attention_layernorm.weight": 1 + _normal(rng, HIDDEN),
        }
    return tensors


class Reference:
    """The hidden states, vectors and scores of a model directory."""

    def __init__(self, path: Path, prefix: str = "") -> None:
        self.path = path
        self.config = json.loads((path / "config.json").read_text())
        found = read_tensors(path / "model.safetensors")
        self.tensors = {
            name.removeprefix(prefix): value.astype(np.float64) for name, value in found.items()
        }

    def hidden(self, token_ids: Sequence[int], second_start: int = 0) -> Array:
        """The last hidden states (tokens, hidden)."""
        if self.config["model_type"] == "qwen3":
            return self._causal(token_ids)
        tensors, config = self.tensors, self.config
        model_type = config["model_type"]
        count = len(token_ids)
        first = config["pad_token_id"] + 1 if model_type in _SHIFTED else 0
        hidden = tensors["embeddings.word_embeddings.weight"][list(token_ids)]
        hidden = hidden + tensors["embeddings.position_embeddings.weight"][first : first + count]
        types = tensors.get("embeddings.token_type_embeddings.weight")
        if types is not None:
            second = np.arange(count) >= (second_start or count)
            hidden = hidden + types[second.astype(int) if len(types) > 1 else np.zeros(count, int)]
        hidden = self._layer_norm(hidden, "embeddings.LayerNorm")
        bias = self._relative_bias(count) if model_type == "mpnet" else 0.0
        for layer in range(config.get("num_hidden_layers") or config["n_layers"]):
            names = [name.format(layer) for name in _PARTS[model_type]]
            attended = self._attention(hidden, names, bias)
            hidden = self._layer_norm(hidden + attended, names[4])
            inner = _gelu(self._linear(hidden, names[5]), config.get("hidden_act", "gelu"))
            hidden = self._layer_norm(hidden + self._linear(inner, names[6]), names[7])
        return hidden

    def score(self, token_ids: Sequence[int], second_start: int = 0) -> float:
        """The score of a cross-encoder."""
        hidden = self.hidden(token_ids, second_start)
        model_type = self.config["model_type"]
        if model_type == "qwen3":
            if "score.weight" in self.tensors:
                logits = self.tensors["score.weight"] @ hidden[-1]
            else:
                logits = (self.tensors["embed_tokens.weight"] @ hidden[-1])[[NO, YES]]
        else:
            inner, outer = _HEADS[model_type]
            first = self._linear(hidden[0], inner)
            first = np.maximum(first, 0) if model_type == "distilbert" else np.tanh(first)
            logits = self._linear(first, outer)
        return float(logits[0] if len(logits) == 1 else logits[1] - logits[0])

    def _attention(self, hidden: Array, names: Sequence[str], bias: Array | float) -> Array:
        heads = self.config.get("num_attention_heads") or self.config["n_heads"]
        count, size = hidden.shape
        queries, keys, values = (
            self._linear(hidden, name).reshape(count, heads, -1).swapaxes(0, 1)
            for name in names[:3]
        )
        scores = queries @ keys.swapaxes(1, 2) / math.sqrt(size // heads) + bias
        attended = (_softmax(scores) @ values).swapaxes(0, 1).reshape(count, size)
        return self._linear(attended, names[3])

    def _relative_bias(self, count: int) -> Array:
        table = self.tensors["encoder.relative_attention_bias.weight"]
        bias = np.zeros((table.shape[1], count, count))
        for query in range(count):
            for key in range(count):
                bias[:, query, key] = table[_bucket(key - query)]
        return bias

    def _linear(self, inputs: Array, name: str) -> Array:
        return inputs @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def _layer_norm(self, inputs: Array, name: str) -> Array:
        eps = self.config.get("layer_norm_eps", 1e-12)
        centred = inputs - inputs.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def _causal(self, token_ids: Sequence[int]) -> Array:
        hidden = self.tensors["embed_tokens.weight"][list(token_ids)]
        for layer in range(self.config["num_hidden_layers"]):
            name = f"layers.{layer}."
            hidden = hidden + self._causal_attention(
                self._rms(hidden, f"{name}input_layernorm"), f"{name}self_attn."
            )
            inner = self._rms(hidden, f"{name}post_attention_layernorm")
            gate = inner @ self.tensors[f"{name}mlp.gate_proj.weight"].T
            up = inner @ self.tensors[f"{name}mlp.up_proj.weight"].T
            gated = gate / (1 + np.exp(-gate)) * up
            hidden = hidden + gated @ self.tensors[f"{name}mlp.down_proj.weight"].T
        return self._rms(hidden, "norm")

    def _causal_attention(self, hidden: Array, name: str) -> Array:
        config, count = self.config, len(hidden)
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        parts = [
            (hidden @ self.tensors[f"{name}{part}_proj.weight"].T)
            .reshape(count, number, config["head_dim"])
            .swapaxes(0, 1)
            for part, number in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        ]
        queries = _rotated(self._rms(parts[0], f"{name}q_norm"), config["rope_theta"])
        keys = _rotated(self._rms(parts[1], f"{name}k_norm"), config["rope_theta"])
        keys, values = (np.repeat(each, heads // kv_heads, axis=0) for each in (keys, parts[2]))
        scores = queries @ keys.swapaxes(1, 2) / math.sqrt(config["head_dim"])
        scores += np.triu(np.full((count, count), -np.inf), 1)
        attended = (_softmax(scores) @ values).swapaxes(0, 1).reshape(count, -1)
        return attended @ self.tensors[f"{name}o_proj.weight"].T

    def _rms(self, inputs: Array, name: str) -> Array:
        scale = np.sqrt((inputs**2).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return inputs / scale * self.tensors[f"{name}.weight"]


def pooled(hidden: Array, mode: str) -> Array:
    """The vector of one text by a mode of pooling."""
    weights = np.arange(1, len(hidden) + 1)[:, None]
    return {
        "cls": hidden[0],
        "max": hidden.max(0),
        "mean": hidden.mean(0),
        "mean_sqrt_len_tokens": hidden.sum(0) / math.sqrt(len(hidden)),
        "weightedmean": (hidden * weights).sum(0) / weights.sum(),
        "lasttoken": hidden[-1],
    }[mode]


def _softmax(scores: Array) -> Array:
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _gelu(inputs: Array, name: str) -> Array:
    if name == "gelu_new":
        inner = math.sqrt(2 / math.pi) * (inputs + 0.044715 * inputs**3)
        return 0.5 * inputs * (1 + np.tanh(inner))
    return inputs * 0.5 * (1 + np.vectorize(math.erf)(inputs / math.sqrt(2)))


def _rotated(inputs: Array, base: float) -> Array:
    """Rotary positions, halves apart (heads, tokens, dims)."""
    half = inputs.shape[-1] // 2
    angles = np.arange(inputs.shape[1])[:, None] * base ** (-np.arange(half) / half)
    first, second = inputs[..., :half], inputs[..., half:]
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)


def _bucket(relative: int) -> int:
    """T5's bucket of the position of a key relative to its query: 32 in both directions."""
    bucket = 16 if relative > 0 else 0
    distance = abs(relative)
    if distance < 8:
        return bucket + distance
    return bucket + min(15, 8 + int(math.log(distance / 8) / math.log(128 / 8) * 8))
