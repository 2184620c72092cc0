"""Prints which architectures a group computes exactly.

    python -m tests.matrix.group_architectures [--split pipeline] [--size 3] [ARCHITECTURE ...]
    python -m tests.matrix.group_architectures --split pipeline --shares 300000,700000 \\
        --changes '{"num_hidden_layers": 8}'

Each rank compares the scores of its part, over the ring, with those of the whole model.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from mlxmesh_engine.cache.kv_cache import BatchCache, Batching
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.forward_pass import feed
from mlxmesh_engine.forward.loader import read_model
from mlxmesh_engine.groups.pipeline import PassesInOrder, can_pipeline, pipeline
from mlxmesh_engine.groups.ring import Ring, open_ring
from mlxmesh_engine.groups.sharding import can_divide, divide
from mlxmesh_shared.errors import MeshError
from tests.fakes.ports import free_ports
from tests.fakes.tiny_model import mx
from tests.matrix.configs import architectures
from tests.matrix.examination import write_architecture

_PROMPT = [5, 9, 17, 33, 65, 101]
# Relative to the spread of the scores.
_ROUNDING = 1e-4


def main() -> None:
    """Starts the ranks on all architectures; rank 0 prints."""
    given = _arguments().parse_args()
    addresses = json.dumps([f"127.0.0.1:{port}" for port in free_ports(given.size)])
    line = [sys.executable, "-m", "tests.matrix.group_architectures", *sys.argv[1:]]
    with TemporaryDirectory() as folder:
        ranks = [
            subprocess.Popen([*line, "--place", str(rank), addresses, folder])
            for rank in range(given.size)
        ]
        for rank in ranks:
            rank.wait()


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--split", choices=["tensor", "pipeline"], default="tensor")
    parser.add_argument("--size", type=int, default=2)
    parser.add_argument(
        "--shares", type=_numbers, default=[], help="of the layers, in millionths, by rank"
    )
    parser.add_argument("--changes", type=json.loads, default={}, help="of configurations, in JSON")
    parser.add_argument("--place", nargs=3, metavar=("RANK", "ADDRESSES", "FOLDER"))
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def compare(rank: int, addresses: list[str], folder: Path, chosen: argparse.Namespace) -> None:
    """Runs in each rank."""
    ring = open_ring(rank, addresses)
    for name in chosen.names or architectures():
        # A model begins with random biases, which must be the same for all ranks.
        mx.random.seed(0)
        try:
            path = write_architecture(folder / f"{name}-{rank}", name, **chosen.changes)
            result = _result(path, ring, chosen.split, chosen.shares)
        # What mlx-lm cannot make here is reported; one architecture exits without its package.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            result = f"not made: {type(error).__name__}: {str(error)[:80]}"
        if rank == 0 and result:
            print(name, result, flush=True)


def _result(path: Path, ring: Ring, split: str, shares: list[int]) -> str:
    """Empty if mlx-lm cannot divide it."""
    whole, _ = read_model(path)
    if not (can_divide(whole) if split == "tensor" else can_pipeline(whole)):
        return ""
    expected = _scores(whole)
    part, _ = read_model(path)
    try:
        if split == "tensor":
            divide(part, ring)
        else:
            pipeline(part, ring, shares)
            part = PassesInOrder(part)
    except MeshError as error:
        return error.message
    gap = np.abs(_scores(part) - expected).max() / np.ptp(expected)
    result = "exact" if gap < _ROUNDING else f"differs by {gap:.1e}"
    if shares:
        result += f", {_layers(part)} of {_layers(whole)} layers on rank 0"
    return result


def _layers(model: Any) -> int:
    return len(make_prompt_cache(model.whole if isinstance(model, PassesInOrder) else model))


def _scores(model: Any) -> np.ndarray[Any, Any]:
    cache = BatchCache.empty(model, 1, Batching.ALONE)
    feed(model, [_PROMPT[:-1]], cache)
    evaluate(cache.arrays())
    return np.array(cast("Any", feed(model, [_PROMPT[-1:]], cache)[0, -1]), np.float64)


if __name__ == "__main__":
    chosen = _arguments().parse_args()
    if chosen.place is None:
        main()
    else:
        own_rank, ring_addresses, models = chosen.place
        compare(
            int(own_rank),
            json.loads(ring_addresses),
            Path(models),
            chosen,
        )
