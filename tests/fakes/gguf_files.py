"""Small random GGUF files, written by llama.cpp's own package, and what they should compute.

`logits` is a plain float32 forward pass in numpy over the file's weights as that package
dequantizes them, in the file's own order of rows: it shares nothing with the conversion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from transformers.convert_slow_tokenizer import bytes_to_unicode

ALPHABET = list(bytes_to_unicode().values())
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ t", "Ġt h", "Ġth e", "1 2", "o n"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]
TOKENS = [*SPECIAL, *ALPHABET, *(merge.replace(" ", "") for merge in MERGES)]
TOKEN_TYPES = [3, 3, 3, 2, *[1] * (len(TOKENS) - 4)]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EPSILON = 1e-5

Floats = NDArray[Any]


@dataclass
class Shape:
    """What a file is to hold; every kind of matrix is of type `kind` but for the exceptions."""

    architecture: str = "llama"
    kind: Type = Type.F32
    embedding_kind: Type | None = None
    tied: bool = True
    biases: bool = False
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    intermediate: int = 96
    layers: int = 2
    vocab: int = 288
    theta: float = 10_000.0
    context: int = 16_384
    metadata: dict[str, Any] = field(default_factory=dict)
    """More keys, or others: text, int or float by its Python type."""
    rope_divisors: Sequence[float] | None = None
    seed: int = 0


def write_gguf(path: Path, shape: Shape) -> Path:
    """A file of that shape."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    _write_sizes(writer, shape)
    _write_tokenizer(writer)
    for key, value in shape.metadata.items():
        _write_value(writer, key, value)
    for name, (size, kind) in tensors_of(shape).items():
        _write_tensor(writer, name, _random(shape, name, size), kind)
    if shape.rope_divisors is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(shape.rope_divisors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_sizes(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_freq_base(shape.theta)
    if shape.head_dim != shape.hidden // shape.heads:
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types(TOKEN_TYPES)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)


def _write_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_float32(key, value)


def _write_tensor(writer: gguf.GGUFWriter, name: str, values: Floats, kind: Type) -> None:
    data = values if kind == Type.F32 else gguf.quants.quantize(values, kind)
    writer.add_tensor(name, data, raw_dtype=kind)


def tensors_of(shape: Shape) -> dict[str, tuple[tuple[int, ...], Type]]:
    """The shape and type of each tensor."""
    kind, f32 = shape.kind, Type.F32
    hidden, inner = shape.hidden, shape.intermediate
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    found: dict[str, tuple[tuple[int, ...], Type]] = {
        "token_embd.weight": ((shape.vocab, hidden), shape.embedding_kind or kind),
        "output_norm.weight": ((hidden,), f32),
    }
    if not shape.tied:
        found["output.weight"] = ((shape.vocab, hidden), kind)
    for number in range(shape.layers):
        layer = f"blk.{number}."
        for name in ("attn_norm.weight", "ffn_norm.weight"):
            found[layer + name] = ((hidden,), f32)
        for name, rows, columns in (
            ("attn_q", queries, hidden), ("attn_k", keys, hidden), ("attn_v", keys, hidden),
            ("attn_output", hidden, queries), ("ffn_gate", inner, hidden),
            ("ffn_up", inner, hidden), ("ffn_down", hidden, inner),
        ):  # fmt: skip
            found[f"{layer}{name}.weight"] = ((rows, columns), kind)
        if shape.architecture == "qwen2" or shape.biases:
            names = {"attn_q": queries, "attn_k": keys, "attn_v": keys}
            if shape.architecture != "qwen2":
                names["attn_output"] = hidden
            for name, rows in names.items():
                found[f"{layer}{name}.bias"] = ((rows,), f32)
        if shape.architecture == "qwen3":
            for name in ("attn_q_norm.weight", "attn_k_norm.weight"):
                found[layer + name] = ((shape.head_dim,), f32)
    return found


def _random(shape: Shape, name: str, size: tuple[int, ...]) -> Floats:
    generator = np.random.default_rng([shape.seed, *name.encode()])
    values = generator.normal(size=size).astype(np.float32)
    return 1 + values * 0.1 if "norm" in name else values * 0.2


def weights_of(path: Path) -> dict[str, Floats]:
    """Every tensor in float32, as llama.cpp's package dequantizes it, (rows, columns)."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for tensor in gguf.GGUFReader(path).tensors
    }


def logits(path: Path, shape: Shape, ids: Sequence[int], *, position_scale: float = 1.0) -> Floats:
    """The scores after each token, (tokens, vocab)."""
    w = weights_of(path)
    x = w["token_embd.weight"][list(ids)]
    angles = _angles(shape, len(ids), w.get("rope_freqs.weight"), position_scale)
    for number in range(shape.layers):
        layer = {
            name.removeprefix(f"blk.{number}."): value
            for name, value in w.items()
            if name.startswith(f"blk.{number}.")
        }
        x = x + _attention(shape, layer, _norm(x, layer["attn_norm.weight"]), angles)
        h = _norm(x, layer["ffn_norm.weight"])
        gate = h @ layer["ffn_gate.weight"].T
        gate = gate / (1 + np.exp(-gate))
        x = x + (gate * (h @ layer["ffn_up.weight"].T)) @ layer["ffn_down.weight"].T
    x = _norm(x, w["output_norm.weight"])
    return x @ w.get("output.weight", w["token_embd.weight"]).T


def _norm(x: Floats, weight: Floats) -> Floats:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPSILON) * weight


def _angles(shape: Shape, tokens: int, divisors: Floats | None, scale: float) -> Floats:
    """(tokens, head_dim / 2)"""
    frequencies = shape.theta ** -(np.arange(0, shape.head_dim, 2) / shape.head_dim)
    if divisors is not None:
        frequencies = frequencies / divisors
    return np.arange(tokens)[:, None] * frequencies[None] * scale


def _attention(
    shape: Shape,
    layer: dict[str, Floats],
    h: Floats,
    angles: Floats,
) -> Floats:
    def heads(name: str, count: int) -> Floats:
        flat = h @ layer[f"{name}.weight"].T + layer.get(f"{name}.bias", np.float32(0))
        return flat.reshape(len(h), count, shape.head_dim).transpose(1, 0, 2)

    q, k, v = (
        heads("attn_q", shape.heads),
        *(heads(name, shape.kv_heads) for name in ("attn_k", "attn_v")),
    )
    if shape.architecture == "qwen3":
        q, k = _norm(q, layer["attn_q_norm.weight"]), _norm(k, layer["attn_k_norm.weight"])
    q, k = _rotate(shape, q, angles), _rotate(shape, k, angles)
    group = shape.heads // shape.kv_heads
    k, v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(shape.head_dim)
    scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ v
    joined = mixed.transpose(1, 0, 2).reshape(len(h), -1)
    out = joined @ layer["attn_output.weight"].T
    return out + layer.get("attn_output.bias", np.float32(0))


def _rotate(shape: Shape, x: Floats, angles: Floats) -> Floats:
    """Neighbours in a llama's file, halves in the others."""
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    if shape.architecture == "llama":
        a, b = x[..., ::2], x[..., 1::2]
        turned = np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
        return turned.reshape(x.shape)
    half = shape.head_dim // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
