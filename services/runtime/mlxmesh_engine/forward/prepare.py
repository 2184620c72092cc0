"""Chooses a model's forward pass: the one for CPUs if it is for this model, else mlx-lm's."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from mlx import nn

from mlxmesh_engine.cache.kv_cache import BatchCache, Batching
from mlxmesh_engine.cache.quantized_layer import can_quantize
from mlxmesh_engine.cpu import families
from mlxmesh_engine.cpu.kv_format import FORMATS, KV_BITS
from mlxmesh_engine.cpu.products import choose_layout
from mlxmesh_engine.cpu.workers import usable_cores
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.batch_trial import BatchTrial, difference
from mlxmesh_engine.forward.cpu_forward import CpuForward
from mlxmesh_engine.forward.forward_pass import Forward, MlxForward, MlxModel, feed
from mlxmesh_engine.forward.weights import parameters
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

_log = logging.getLogger(__name__)

_PROBE_TOKENS = 4
# Relative to the spread of the scores, as for batches: see `batch_trial`.
_TOLERANCE = 1e-3
# Of a pass that reads quantized keys and values as they are meant; otherwise it is above 1.
_QUANTIZED_TOLERANCE = 0.5


@dataclass(frozen=True, slots=True)
class PreparedForward:
    """A forward pass and what the engine must know about it."""

    forward: Forward
    batching: Batching
    vocab_size: int
    token_bytes: int
    """The size of one token of one sequence in the KV cache."""
    weights_bytes: int


def prepare_forward(
    model: nn.Module,
    *,
    cpu: bool,
    cpu_threads: int,
    dtype: str,
    kv_cache_type: str,
    reload: Callable[[], nn.Module],
) -> PreparedForward:
    """Consumes the model. cpu: whether to use the forward pass for CPUs if it supports the model.
    cpu_threads: its threads; 0 to choose. kv_cache_type: full, 8bit or 4bit.

    `reload` loads the model again, should the scores of that pass differ from those of mlx-lm's.

    Raises: FeatureNotSupported if the model cannot compute on this device; InvalidArgument if its
    keys and values cannot be kept with fewer bits.
    """
    weights_bytes = sum(array.nbytes for _, array in parameters(model))
    if cpu and families.is_supported(model):
        if (own := _cpu_forward(model, cpu_threads, kv_cache_type)) is not None:
            return PreparedForward(
                own, Batching.PACKED, own.vocab_size, own.token_bytes, weights_bytes
            )
        model = reload()
    kv_bits = None if kv_cache_type == "full" else KV_BITS[kv_cache_type]
    trial = _trial(cast("MlxModel", model), narrow=dtype != "float32", kv_bits=kv_bits)
    batching = trial.best()
    if kv_bits is not None and batching is Batching.ALONE:
        raise not_quantizable("its scores in a batch differ from those of each row alone")
    return PreparedForward(
        MlxForward(cast("MlxModel", model), batching, kv_bits),
        batching,
        trial.vocab_size,
        trial.token_bytes,
        weights_bytes,
    )


def _trial(model: MlxModel, *, narrow: bool, kv_bits: int | None) -> BatchTrial:
    """Raises: as `prepare_forward`."""
    if kv_bits is None:
        return BatchTrial(model, narrow=narrow)
    if not can_quantize(model):
        raise not_quantizable("some of its layers have windows, states or caches of their own")
    full = BatchTrial(model, narrow=narrow)
    try:
        trial = BatchTrial(model, narrow=narrow, kv_bits=kv_bits)
    except FeatureNotSupported as error:
        raise not_quantizable(error.message) from error
    if difference(full.probe(), trial.probe()) > _QUANTIZED_TOLERANCE:
        raise not_quantizable("its scores differ too much from those with full ones")
    return trial


def not_quantizable(why: str) -> InvalidArgument:
    return InvalidArgument(
        f"the model's keys and values cannot be kept with fewer bits: {why}; "
        "set kv_cache_type to full",
        field="kv_cache_type",
    )


def _cpu_forward(model: nn.Module, threads: int, kv_cache_type: str) -> CpuForward | None:
    """The pass for CPUs; None if its scores are not those of mlx-lm's pass."""
    vocab_size = families.vocab_size(model)
    probe = [at * vocab_size // _PROBE_TOKENS for at in range(_PROBE_TOKENS)]
    alone = BatchCache.empty(model, 1, Batching.ALONE)
    expected = feed(cast("MlxModel", model), [probe], alone)[0, -1]
    evaluate([expected])
    layout = choose_layout(threads=threads, cores=usable_cores())
    decoder = families.describe(model, layout)
    own = CpuForward(decoder)
    (actual,) = own.scores([probe], own.new_cache([None]))
    if (gap := difference(expected, actual[-1])) > _TOLERANCE:
        _log.warning("the forward pass for CPUs differs from mlx-lm's by %.1e: not used", gap)
        return None
    kind, count = "blocked" if layout.blocked else "plain", layout.workers.threads
    _log.info("the forward pass for CPUs serves it: %s weights, %d threads", kind, count)
    return own if kv_cache_type == "full" else CpuForward(decoder, FORMATS[kv_cache_type])
