"""What a GGUF file's architecture is for mlx-lm: the configuration, and the name and shape of each
tensor that belongs to it.

Source: tensor and key names of llama.cpp (gguf-py constants.py), names of mlx-lm's models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlxmesh_model.gguf.header import GgufHeader, GgufTensor
from mlxmesh_model.gguf.metadata import Metadata
from mlxmesh_model.gguf.problems import BadFile, NotSupported
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
    """How one of llama.cpp's architectures differs from the others."""

    name: str
    """As llama.cpp and mlx-lm both call it."""
    rotated_pairs: bool = False
    """The rows of q and k are stored for a rotation of neighbours; mlx-lm rotates halves."""
    query_biases: bool = False
    """q, k and v have biases, and the output has none."""
    head_norms: bool = False
    """q and k are normalized for each head."""


ARCHITECTURES = {
    known.name: known
    for known in (
        Architecture("llama", rotated_pairs=True),
        Architecture("qwen2", query_biases=True),
        Architecture("qwen3", head_norms=True),
    )
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tensor that the model needs: its name at mlx-lm, its shape, and, where its rows are stored
    for a rotation of neighbours, how many rows a head has.
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
    """Raises: NotSupported by name."""
    name = header.metadata.text("general.architecture")
    if header.metadata.integer("split.count", 0, 2**16, default=0) > 1:
        raise NotSupported("it is one part of a split file; join the parts with llama-gguf-split")
    if name not in ARCHITECTURES:
        raise NotSupported(f"its architecture is {name}; {', '.join(ARCHITECTURES)} are taken")
    if header.metadata.integer(f"{name}.expert_count", 0, 2**16, default=0):
        raise NotSupported(f"it is a {name} with experts ({name}.expert_count); not taken")
    return ARCHITECTURES[name]


def config_of(
    header: GgufHeader, architecture: Architecture, rope_divisors: Sequence[float] | None
) -> dict[str, Any]:
    """The model's config.json, without its end tokens and quantization.

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


def wanted_tensors(header: GgufHeader, architecture: Architecture) -> dict[str, Wanted]:
    """What each of the file's tensors is for mlx-lm, by its name in the file.

    Raises: BadFile for one that is missing, has no place, or another shape than its place.
    """
    wanted = dict(_wanted(header, architecture, _sizes(header, architecture.name)))
    for name, place in wanted.items():
        if name not in header.tensors:
            raise BadFile(f"it has no tensor {name}")
        shape = header.tensors[name].shape
        if shape != place.shape:
            raise BadFile(f"tensor {name} has the shape {list(shape)}, not {list(place.shape)}")
    for name in header.tensors:
        if name not in wanted and name != ROPE_FREQUENCIES:
            raise NotSupported(f"tensor {name} has no place in a {architecture.name} of mlx-lm")
    return wanted


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
            raise NotSupported(f"{name}.{key} is not the size of a head ({head_dim})")
    if heads % kv_heads or head_dim % 2:
        raise BadFile(f"{heads} heads of {head_dim} cannot share {kv_heads} heads of keys")
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


def _wanted(
    header: GgufHeader, architecture: Architecture, sizes: _Sizes
) -> Iterator[tuple[str, Wanted]]:
    yield _EMBEDDING, Wanted("model.embed_tokens.weight", (sizes.vocab, sizes.hidden))
    yield "output_norm.weight", Wanted("model.norm.weight", (sizes.hidden,))
    if _OUTPUT in header.tensors:
        yield _OUTPUT, Wanted("lm_head.weight", (sizes.vocab, sizes.hidden))
    biases = architecture.query_biases or _has_biases(header)
    for number in range(sizes.layers):
        for name, place in _layer(architecture, sizes, biases):
            yield (
                f"blk.{number}.{name}",
                Wanted(f"model.layers.{number}.{place.name}", place.shape, place.head_rows),
            )


def _layer(architecture: Architecture, sizes: _Sizes, biases: bool) -> Iterator[tuple[str, Wanted]]:
    hidden, intermediate, head_dim = sizes.hidden, sizes.intermediate, sizes.head_dim
    queries, keys = sizes.heads * head_dim, sizes.kv_heads * head_dim
    head_rows = head_dim if architecture.rotated_pairs else 0
    yield "attn_norm.weight", Wanted("input_layernorm.weight", (hidden,))
    yield "ffn_norm.weight", Wanted("post_attention_layernorm.weight", (hidden,))
    yield "ffn_gate.weight", Wanted("mlp.gate_proj.weight", (intermediate, hidden))
    yield "ffn_up.weight", Wanted("mlp.up_proj.weight", (intermediate, hidden))
    yield "ffn_down.weight", Wanted("mlp.down_proj.weight", (hidden, intermediate))
    yield "attn_output.weight", Wanted("self_attn.o_proj.weight", (hidden, queries))
    projections = [("q", queries, head_rows), ("k", keys, head_rows), ("v", keys, 0)]
    for name, rows, permuted in projections:
        place = f"self_attn.{name}_proj"
        yield f"attn_{name}.weight", Wanted(f"{place}.weight", (rows, hidden), permuted)
        if biases:
            yield f"attn_{name}.bias", Wanted(f"{place}.bias", (rows,), permuted)
    if biases and not architecture.query_biases:
        yield "attn_output.bias", Wanted("self_attn.o_proj.bias", (hidden,))
    if architecture.head_norms:
        yield "attn_q_norm.weight", Wanted("self_attn.q_norm.weight", (head_dim,))
        yield "attn_k_norm.weight", Wanted("self_attn.k_norm.weight", (head_dim,))
