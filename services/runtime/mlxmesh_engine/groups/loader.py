"""Loads one rank's part of a model. All ranks do this at the same time, and must agree."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from mlx import nn

from mlxmesh_engine.forward.forward_pass import MlxForward
from mlxmesh_engine.forward.loader import LoadedModel, load
from mlxmesh_engine.forward.prepare import PreparedForward, prepare_forward
from mlxmesh_engine.forward.weights import every_array
from mlxmesh_engine.groups.agreement import (
    agreed_shares,
    check_equal,
    files_digest,
    smallest,
    software,
)
from mlxmesh_engine.groups.layer_shares import PPM, are_equal
from mlxmesh_engine.groups.pipeline import PassesInOrder, kinds_of_caches, pipeline
from mlxmesh_engine.groups.ring import Ring, open_ring
from mlxmesh_engine.groups.ring_forward import RingForward
from mlxmesh_engine.groups.sharding import choose_split, divide
from mlxmesh_engine.scheduling.capacity import UNKNOWN_KV, KvMemory
from mlxmesh_shared.errors import InsufficientMemory, Internal

_UNKNOWN = 2**60

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seat:
    """The place of this process in a group."""

    rank: int
    ring_addresses: Sequence[str]
    """host:port of each rank, by rank."""
    share_ppm: int
    """Of the layers, with pipeline; 0 for as many as other ranks."""
    open_timeout_s: float
    """How long its neighbours may take to open the ring."""


@dataclass(frozen=True, slots=True)
class LoadedPart:
    loaded: LoadedModel
    """Its memory is that of the rank with the least; `model` computes only with all ranks."""
    forward: RingForward


def load_part(
    seat: Seat, model_dir: Path, *, dtype: str, split: str = "auto", **options: Any
) -> LoadedPart:
    """split: tensor, pipeline or auto. options: those of `load`. When it returns, every rank has
    loaded its part.

    Raises: as `load`; InvalidArgument if the ranks differ, or if the model cannot be divided.
    """
    ring = open_ring(seat.rank, seat.ring_addresses, timeout_s=seat.open_timeout_s)
    check_equal(ring, "the software", software())
    check_equal(ring, "the model's directory", files_digest(model_dir))

    check_equal(ring, "group_split", split)
    shares = agreed_shares(ring, seat.share_ppm)

    def divide_model(model: nn.Module) -> None:
        chosen = choose_split(model, split)
        if chosen == "pipeline":
            pipeline(model, ring, shares)
            if not are_equal(shares):
                _check_fits(model, options["available_bytes"]())
        else:
            divide(model, ring)
        _log.info("the model is divided among %d ranks (%s)", len(seat.ring_addresses), chosen)

    def prepare(model: nn.Module, dtype: str) -> PreparedForward:
        check_equal(ring, f"the type of the weights ({dtype} here; set dtype)", dtype)
        # Trials compare passes with each other: all ranks compute the same ones, for the caches of
        # their own layers. Rank 0 also decides by its own what is kept of a prompt.
        check_equal(ring, "the mix of layers", kinds_of_caches(model))
        ordered = PassesInOrder(model) if choose_split(model, split) == "pipeline" else model
        return prepare_forward(
            ordered, cpu=False, cpu_threads=0, dtype=dtype, kv_cache_type="full", reload=_no_reload
        )

    loaded = load(
        model_dir,
        dtype=dtype,
        divide=divide_model,
        parts=PPM / shares[seat.rank],
        prepare=prepare,
        **options,
    )
    check_equal(ring, "how the model can be batched", loaded.batching.value)
    forward = RingForward(cast("MlxForward", loaded.model), ring)
    return LoadedPart(replace(loaded, kv=_smallest(ring, loaded.kv)), forward)


def _check_fits(model: nn.Module, available_bytes: int) -> None:
    """What the runtimes checked were shares of the weights; layers may be divided otherwise.

    Raises: InsufficientMemory.
    """
    needed_bytes = sum(array.nbytes for array in every_array(model))
    if needed_bytes > available_bytes:
        raise InsufficientMemory(
            f"the layers of this rank need {needed_bytes / 2**20:,.0f} MiB, and "
            f"{available_bytes / 2**20:,.0f} MiB are free; use hosts with more memory or more ranks"
        )


def _smallest(ring: Ring, own: KvMemory) -> KvMemory:
    """That of the rank with the least. A rank whose layers have states only knows no limit."""
    tokens = smallest(ring, _UNKNOWN if own.capacity_tokens is None else own.capacity_tokens)
    token_bytes = own.token_bytes or 1
    return UNKNOWN_KV if tokens == _UNKNOWN else KvMemory(token_bytes, tokens * token_bytes)


def _no_reload() -> nn.Module:
    raise Internal("a part of a model is loaded once")
