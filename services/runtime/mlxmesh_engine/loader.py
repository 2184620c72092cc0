"""Loading a model directory: what is refused, which dtype, and every array evaluated.

Everything here runs on the MLX thread: arrays belong to the thread that evaluates them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import mlx.core as mx
import mlx_lm.utils
from mlx import nn

from mlxmesh_engine import model_config
from mlxmesh_engine.blas import Blas
from mlxmesh_engine.dtype_policy import choose_dtype
from mlxmesh_engine.evaluation import compute
from mlxmesh_engine.kv_cache import BatchCache
from mlxmesh_engine.kv_memory import KvMemory, kv_memory
from mlxmesh_engine.llama_forward import LlamaForward
from mlxmesh_engine.llama_weights import is_plain_llama, prepare_llama
from mlxmesh_engine.model_config import read_config
from mlxmesh_engine.weights import converted, every_array, parameters, shipped_weights
from mlxmesh_shared.errors import InvalidArgument

_load_model = cast(
    "Callable[..., tuple[nn.Module, dict[str, Any]]]",
    mlx_lm.utils.load_model,  # pyright: ignore[reportUnknownMemberType]
)


class Forward(Protocol):
    """A language model: token ids (batch, length) to scores (batch, length, vocab)."""

    def __call__(self, inputs: mx.array, *, cache: list[Any]) -> mx.array: ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to run, and its facts."""

    model: Forward
    vocab_size: int
    context_tokens: int
    eos_token_ids: frozenset[int]
    device: str
    dtype: str
    dtype_note: str
    blas: Blas
    weights_bytes: int
    kv: KvMemory


def load(
    model_dir: Path,
    *,
    blas: Blas,
    dtype: str = "auto",
    context_tokens: int = 0,
    kv_cache_bytes: int | None = None,
    available_bytes: Callable[[], int],
) -> LoadedModel:
    """Raises: InvalidArgument, FeatureNotSupported, InsufficientMemory; each says what to do."""
    read_config(model_dir)
    try:
        model, config = _load_model(model_dir, lazy=True)
    except (ValueError, KeyError, TypeError, FileNotFoundError, RuntimeError) as error:
        raise InvalidArgument(
            f"mlx-lm cannot load {model_dir.name}: {error}", field="model_dir"
        ) from error
    device = device_name()
    shipped = shipped_weights(model)
    choice = choose_dtype(dtype, shipped, device=device, blas=blas, available_bytes=available_bytes)
    model = converted(model, choice)
    compute(every_array(model))
    weights_bytes = sum(array.nbytes for _, array in parameters(model))
    forward = _forward(model, device)
    vocab_size, token_bytes = _try_out(forward)
    context_tokens = model_config.context_tokens(config, context_tokens)
    return LoadedModel(
        model=forward,
        vocab_size=vocab_size,
        context_tokens=context_tokens,
        # mlx-lm has merged generation_config.json into the config.
        eos_token_ids=model_config.eos_token_ids(config),
        device=device,
        dtype=choice.dtype,
        dtype_note=choice.note,
        blas=blas,
        weights_bytes=weights_bytes,
        kv=kv_memory(
            token_bytes=token_bytes,
            context_tokens=context_tokens,
            available_bytes=available_bytes(),
            asked_bytes=kv_cache_bytes,
        ),
    )


def device_name() -> str:
    """cpu, metal or cuda."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def _forward(model: nn.Module, device: str) -> Forward:
    """mlx-lm's own, or one with less to do on a CPU where there is one for this model."""
    if device == "cpu" and is_plain_llama(model):
        return LlamaForward(prepare_llama(model))
    return cast("Forward", model)


def _try_out(model: Forward) -> tuple[int, int]:
    """Runs one token through the model: the size of its vocabulary, and the token's KV bytes.

    A cache that forgets or sums up is counted as if it kept every token: more than it takes.
    """
    cache = BatchCache.empty(model, 1)
    logits = model(mx.zeros((1, 1), mx.uint32), cache=cache.layers)
    compute([logits])
    return int(logits.shape[-1]), cache.token_bytes
