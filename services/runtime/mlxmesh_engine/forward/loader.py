"""Loads a model directory: checks it, chooses the dtype, and evaluates every array.

This runs on the MLX thread: arrays belong to the thread that evaluates them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx_lm.utils
from mlx import nn

from mlxmesh_engine.cache.kv_cache import Batching
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward import model_config
from mlxmesh_engine.forward.blas import Blas
from mlxmesh_engine.forward.draft import DraftModel
from mlxmesh_engine.forward.dtype_policy import DtypeChoice, choose_dtype
from mlxmesh_engine.forward.forward_pass import Forward
from mlxmesh_engine.forward.model_config import read_config
from mlxmesh_engine.forward.prepare import PreparedForward, prepare_forward
from mlxmesh_engine.forward.weights import (
    convert_weights,
    every_array,
    first_not_finite,
    shipped_weights,
)
from mlxmesh_engine.scheduling.capacity import KvMemory, kv_memory
from mlxmesh_engine.scheduling.images import ImageReader
from mlxmesh_shared.errors import InvalidArgument

_load_model = cast(
    "Callable[..., tuple[nn.Module, dict[str, Any]]]",
    mlx_lm.utils.load_model,  # pyright: ignore[reportUnknownMemberType]
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to run, and its properties."""

    model: Forward
    batching: Batching
    vocab_size: int
    context_tokens: int
    eos_token_ids: frozenset[int]
    device: str
    dtype: str
    dtype_note: str
    blas: Blas
    weights_bytes: int
    kv: KvMemory
    dimensions: int = 0
    """It makes no vectors."""
    draft: DraftModel | None = None
    """Proposes tokens for it."""
    image_reader: ImageReader | None = None
    """Of a model that sees; not for the MLX thread."""


Read = Callable[[Path], tuple[nn.Module, dict[str, Any]]]
"""Makes a directory's model, with weights that are not loaded yet, and its configuration."""


def read_model(model_dir: Path) -> tuple[nn.Module, dict[str, Any]]:
    """By mlx-lm."""
    return _load_model(model_dir, lazy=True)


def load(
    model_dir: Path,
    *,
    blas: Blas,
    dtype: str = "auto",
    context_tokens: int = 0,
    kv_cache_bytes: int | None = None,
    kv_cache_type: str = "full",
    cpu_forward: bool = True,
    cpu_threads: int = 0,
    available_bytes: Callable[[], int],
    read: Read = read_model,
    prepare: Callable[[nn.Module, str], PreparedForward] | None = None,
    divide: Callable[[nn.Module], None] | None = None,
    parts: float = 1,
) -> LoadedModel:
    """kv_cache_type: how keys and values are kept: full, 8bit or 4bit. cpu_forward: whether the
    forward pass for CPUs serves the models that it supports, with cpu_threads threads (0: chosen by
    measurement). prepare: makes another forward pass of the model and the dtype of its activations.
    divide: keeps a part of the model, before its weights are in memory. parts: how many parts of
    that size the model has.

    Raises: InvalidArgument, FeatureNotSupported, InsufficientMemory; messages say what to do.
    """
    read_config(model_dir)
    shipped, config = _read(model_dir, read)
    device, weights = device_name(), shipped_weights(shipped)
    choice = choose_dtype(
        dtype,
        weights,
        device=device,
        blas=blas,
        available_bytes=lambda: int(parts * available_bytes()),
    )
    model = _materialize(model_dir, shipped, choice, read, divide)
    if prepare is not None:
        prepared = prepare(model, choice.dtype)
    else:
        prepared = prepare_forward(
            model,
            cpu=cpu_forward and device == "cpu",
            cpu_threads=cpu_threads,
            dtype=choice.dtype,
            kv_cache_type=kv_cache_type,
            reload=lambda: _materialize(model_dir, _read(model_dir, read)[0], choice, read),
        )
    context_tokens = model_config.context_tokens(config, context_tokens)
    return LoadedModel(
        model=prepared.forward,
        batching=prepared.batching,
        vocab_size=prepared.vocab_size,
        context_tokens=context_tokens,
        # mlx-lm has merged generation_config.json into the config.
        eos_token_ids=model_config.eos_token_ids(config),
        device=device,
        dtype=choice.dtype,
        dtype_note=choice.note,
        blas=blas,
        weights_bytes=prepared.weights_bytes,
        kv=kv_memory(
            token_bytes=prepared.token_bytes,
            context_tokens=context_tokens,
            available_bytes=available_bytes(),
            configured_bytes=kv_cache_bytes,
        ),
    )


def _read(model_dir: Path, read: Read) -> tuple[nn.Module, dict[str, Any]]:
    """Raises: InvalidArgument, OSError."""
    try:
        return read(model_dir)
    # A bad configuration may raise anything; one architecture exits if a package is missing.
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise  # a failure of a disk or a network: a retry may succeed
        what = f"{type(error).__name__}: {error}"
        if isinstance(error, SystemExit):
            what = "it needs a package that is not installed; the engine's log names it"
        raise InvalidArgument(
            f"mlx-lm cannot load {model_dir.name}: {what}", field="model_dir"
        ) from error


def _materialize(
    model_dir: Path,
    shipped: nn.Module,
    choice: DtypeChoice,
    read: Read,
    divide: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """The model with its weights in memory. Raises: InvalidArgument if some are not finite."""
    model = convert_weights(shipped, choice)
    if divide is not None:
        divide(model)
    evaluate(every_array(model))
    if name := first_not_finite(model):
        raise InvalidArgument(_not_finite(model_dir, name, choice, read), field="model_dir")
    return model


def _not_finite(model_dir: Path, name: str, choice: DtypeChoice, read: Read) -> str:
    """Says which tensor of the files caused the values of the loaded model."""
    shipped, _ = _read(model_dir, read)
    if in_file := first_not_finite(shipped):
        return (
            f"the tensor {in_file} of {model_dir.name} holds NaN or infinite values; "
            "download or convert the model again"
        )
    return (
        f"the tensor {name} of {model_dir.name} does not fit into {choice.dtype}; "
        "choose another dtype"
    )


def device_name() -> str:
    """cpu, metal or cuda."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"
