"""Chooses a model's forward pass: the one for CPUs if it is for this model, else mlx-lm's."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from mlx import nn

from mlxmesh_engine.cache.kv_cache import BatchCache, Batching
from mlxmesh_engine.cpu import families
from mlxmesh_engine.cpu.products import choose_layout
from mlxmesh_engine.cpu.workers import usable_cores
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.batch_trial import BatchTrial, difference
from mlxmesh_engine.forward.cpu_forward import CpuForward
from mlxmesh_engine.forward.forward_pass import Forward, MlxForward, MlxModel, feed
from mlxmesh_engine.forward.weights import parameters

_log = logging.getLogger(__name__)

_PROBE_TOKENS = 4
# Relative to the spread of the scores, as for batches: see `batch_trial`.
_TOLERANCE = 1e-3


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
    reload: Callable[[], nn.Module],
) -> PreparedForward:
    """Consumes the model. cpu: whether to use the forward pass for CPUs if it supports the model.
    cpu_threads: its threads; 0 to choose.

    `reload` loads the model again, should the scores of that pass differ from those of mlx-lm's.

    Raises: FeatureNotSupported if the model cannot compute on this device.
    """
    weights_bytes = sum(array.nbytes for _, array in parameters(model))
    if cpu and families.is_supported(model):
        if (own := _cpu_forward(model, cpu_threads)) is not None:
            return PreparedForward(
                own, Batching.PACKED, own.vocab_size, own.token_bytes, weights_bytes
            )
        model = reload()
    trial = BatchTrial(cast("MlxModel", model), narrow=dtype != "float32")
    batching = trial.best()
    return PreparedForward(
        MlxForward(cast("MlxModel", model), batching),
        batching,
        trial.vocab_size,
        trial.token_bytes,
        weights_bytes,
    )


def _cpu_forward(model: nn.Module, threads: int) -> CpuForward | None:
    """The pass for CPUs; None if its scores are not those of mlx-lm's pass."""
    vocab_size = families.vocab_size(model)
    probe = [at * vocab_size // _PROBE_TOKENS for at in range(_PROBE_TOKENS)]
    alone = BatchCache.empty(model, 1, Batching.ALONE)
    expected = feed(cast("MlxModel", model), [probe], alone)[0, -1]
    evaluate([expected])
    layout = choose_layout(threads=threads, cores=usable_cores())
    own = CpuForward(families.describe(model, layout))
    (actual,) = own.scores([probe], own.new_cache([None]))
    if (gap := difference(expected, actual[-1])) > _TOLERANCE:
        _log.warning("the forward pass for CPUs differs from mlx-lm's by %.1e: not used", gap)
        return None
    kind, count = "blocked" if layout.blocked else "plain", layout.workers.threads
    _log.info("the forward pass for CPUs serves it: %s weights, %d threads", kind, count)
    return own
