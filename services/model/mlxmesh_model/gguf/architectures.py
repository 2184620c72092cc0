"""Maps a GGUF file's architecture to mlx-lm: the configuration, and the name and shape of each
tensor.

Source: tensor and key names of llama.cpp (gguf-py constants.py), names of mlx-lm's models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlxmesh_model.gguf.header import GgufHeader, GgufTensor
from mlxmesh_model.gguf.metadata import BadFile, Metadata, NotSupported
from mlxmesh_model.gguf.rope import ROPE_FREQUENCIES, Rope, rope_scaling

MAX_HIDDEN = 2**16
MAX_INTERMEDIATE = 2**20
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_HEAD_DIM = 512
MAX_VOCAB = 2**22
MAX_CONTEXT_TOKENS = 2**31

_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class Architecture:
    """The differences of one of llama.cpp's architectures from the others."""

    name: str
    """The name in both llama.cpp and mlx-lm."""
    rotated_pairs: bool = False
    """The rows of q and k are stored for rotating adjacent pairs; mlx-lm rotates halves."""
    query_biases: bool = False
    """q, k and v have biases and the output projection has none."""
    head_norms: bool = False
    """q and k are normalized per head."""


ARCHITECTURES = {
    known.name: known
    for known in (
        Architecture("llama", rotated_pairs=True),
        Architecture("qwen2", query_biases=True),
        Architecture("qwen3", head_norms=True),
    )
}


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor of the mlx-lm model: its name, its shape and, if the rows are stored for rotating
    adjacent pairs, the number of rows per head.
    """

    name: str
    shape: tuple[int, ...]
    head_rows: int = 0


@dataclass(frozen=True, slots=True)
class _Sizes:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_tokens: int


def architecture_of(header: GgufHeader) -> Architecture:
    """The architecture of a file. Raises: NotSupported, which names it."""
    name = header.metadata.text("general.architecture")
    if header.metadata.integer("split.count", 0, 2**16, default=0) > 1:
        raise NotSupported("it is one part of a split file; join the parts with llama-gguf-split")
    if name not in ARCHITECTURES:
        raise NotSupported(f"its architecture is {name}; {', '.join(ARCHITECTURES)} are supported")
    if header.metadata.integer(f"{name}.expert_count", 0, 2**16, default=0):
        raise NotSupported(
            f"it is a {name} with experts ({name}.expert_count), which is not supported"
        )
    return ARCHITECTURES[name]


def config_of(
    header: GgufHeader, architecture: Architecture, rope_divisors: Sequence[float] | None
) -> dict[str, Any]:
    """The model's config.json without end tokens and quantization.

    Raises: BadFile, NotSupported.
    """
    metadata, name = header.metadata, architecture.name
    sizes = _sizes(header, name)
    theta = metadata.number(f"{name}.rope.freq_base", 1, 1e12, default=10_000.0)
    config: dict[str, Any] = {
        "model_type": name,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "vocab_size": sizes.vocab,
        "max_position_embeddings": sizes.context_tokens,
        "rms_norm_eps": metadata.number(f"{name}.attention.layer_norm_rms_epsilon", 0, 1),
        "rope_theta": theta,
        "tie_word_embeddings": _OUTPUT not in header.tensors,
        "attention_bias": _has_biases(header) and not architecture.query_biases,
    }
    rope = Rope(theta, sizes.head_dim, sizes.context_tokens)
    if rope_divisors is not None and len(rope_divisors) != sizes.head_dim // 2:
        raise BadFile(f"tensor {ROPE_FREQUENCIES} has {len(rope_divisors)} values for a head")
    scaling = rope_scaling(metadata, name, rope, rope_divisors)
    return config | ({"rope_scaling": scaling} if scaling else {})


def target_tensors(header: GgufHeader, architecture: Architecture) -> dict[str, Target]:
    """The target of each of the file's tensors, by the name in the file.

    Raises: BadFile for a missing tensor or a wrong shape, NotSupported for an unknown tensor.
    """
    targets = dict(_targets(header, architecture, _sizes(header, architecture.name)))
    for name, target in targets.items():
        if name not in header.tensors:
            raise BadFile(f"it has no tensor {name}")
        shape = header.tensors[name].shape
        if shape != target.shape:
            raise BadFile(f"tensor {name} has the shape {list(shape)}, not {list(target.shape)}")
    for name in header.tensors:
        if name not in targets and name != ROPE_FREQUENCIES:
            raise NotSupported(f"tensor {name} is unknown to mlx-lm's {architecture.name}")
    return targets


def _sizes(header: GgufHeader, name: str) -> _Sizes:
    metadata: Metadata = header.metadata
    heads = metadata.integer(f"{name}.attention.head_count", 1, MAX_HEADS)
    hidden = metadata.integer(f"{name}.embedding_length", 1, MAX_HIDDEN)
    kv_heads = metadata.integer(f"{name}.attention.head_count_kv", 1, MAX_HEADS, default=heads)
    head_dim = metadata.integer(
        f"{name}.attention.key_length", 2, MAX_HEAD_DIM, default=hidden // heads
    )
    for key in ("attention.value_length", "rope.dimension_count"):
        if metadata.integer(f"{name}.{key}", 1, 2**16, default=head_dim) != head_dim:
            raise NotSupported(f"{name}.{key} is not the head dimension ({head_dim})")
    if heads % kv_heads or head_dim % 2:
        raise BadFile(f"{heads} heads of {head_dim} cannot share {kv_heads} key-value heads")
    return _Sizes(
        hidden=hidden,
        intermediate=metadata.integer(f"{name}.feed_forward_length", 1, MAX_INTERMEDIATE),
        layers=metadata.integer(f"{name}.block_count", 1, MAX_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=_vocab(header),
        context_tokens=metadata.integer(f"{name}.context_length", 1, MAX_CONTEXT_TOKENS),
    )


def _vocab(header: GgufHeader) -> int:
    embedding: GgufTensor | None = header.tensors.get(_EMBEDDING)
    if embedding is None:
        raise BadFile(f"it has no tensor {_EMBEDDING}")
    tokens = len(header.metadata.texts("tokenizer.ggml.tokens"))
    if not tokens <= embedding.rows <= MAX_VOCAB:
        raise BadFile(f"tensor {_EMBEDDING} has {embedding.rows} rows for {tokens} tokens")
    return embedding.rows


def _has_biases(header: GgufHeader) -> bool:
    return "blk.0.attn_q.bias" in header.tensors


def _targets(
    header: GgufHeader, architecture: Architecture, sizes: _Sizes
) -> Iterator[tuple[str, Target]]:
    yield _EMBEDDING, Target("model.embed_tokens.weight", (sizes.vocab, sizes.hidden))
    yield "output_norm.weight", Target("model.norm.weight", (sizes.hidden,))
    if _OUTPUT in header.tensors:
        yield _OUTPUT, Target("lm_head.weight", (sizes.vocab, sizes.hidden))
    biases = architecture.query_biases or _has_biases(header)
    for number in range(sizes.layers):
        for name, target in _layer(architecture, sizes, biases):
            yield (
                f"blk.{number}.{name}",
                Target(f"model.layers.{number}.{target.name}", target.shape, target.head_rows),
            )


def _layer(architecture: Architecture, sizes: _Sizes, biases: bool) -> Iterator[tuple[str, Target]]:
    hidden, intermediate, head_dim = sizes.hidden, sizes.intermediate, sizes.head_dim
    queries, keys = sizes.heads * head_dim, sizes.kv_heads * head_dim
    head_rows = head_dim if architecture.rotated_pairs else 0
    yield "attn_norm.weight", Target("input_layernorm.weight", (hidden,))
    yield "ffn_norm.weight", Target("post_attention_layernorm.weight", (hidden,))
    yield "ffn_gate.weight", Target("mlp.gate_proj.weight", (intermediate, hidden))
    yield "ffn_up.weight", Target("mlp.up_proj.weight", (intermediate, hidden))
    yield "ffn_down.weight", Target("mlp.down_proj.weight", (hidden, intermediate))
    yield "attn_output.weight", Target("self_attn.o_proj.weight", (hidden, queries))
    projections = [("q", queries, head_rows), ("k", keys, head_rows), ("v", keys, 0)]
    for name, rows, permuted in projections:
        place = f"self_attn.{name}_proj"
        yield f"attn_{name}.weight", Target(f"{place}.weight", (rows, hidden), permuted)
        if biases:
            yield f"attn_{name}.bias", Target(f"{place}.bias", (rows,), permuted)
    if biases and not architecture.query_biases:
        yield "attn_output.bias", Target("self_attn.o_proj.bias", (hidden,))
    if architecture.head_norms:
        yield "attn_q_norm.weight", Target("self_attn.q_norm.weight", (head_dim,))
        yield "attn_k_norm.weight", Target("self_attn.k_norm.weight", (head_dim,))
