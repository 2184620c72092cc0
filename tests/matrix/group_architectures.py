"""Prints which architectures a group of two ranks computes exactly.

    python -m tests.matrix.group_architectures [ARCHITECTURE ...]

Each rank compares the scores of its part, over the ring, with those of the whole model.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np

from mlxmesh_engine.cache.kv_cache import BatchCache, Batching
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.forward_pass import feed
from mlxmesh_engine.forward.loader import read_model
from mlxmesh_engine.groups.ring import Ring, open_ring
from mlxmesh_engine.groups.sharding import can_divide, divide
from mlxmesh_shared.errors import MeshError
from tests.fakes.group_ports import free_ports
from tests.fakes.tiny_model import mx
from tests.matrix.configs import architectures
from tests.matrix.examination import write_architecture

_SIZE = 2
_PROMPT = [5, 9, 17, 33, 65, 101]
# Relative to the spread of the scores.
_ROUNDING = 1e-4


def main() -> None:
    """Starts the two ranks on all architectures; rank 0 prints."""
    names = sys.argv[1:] or architectures()
    addresses = json.dumps([f"127.0.0.1:{port}" for port in free_ports(_SIZE)])
    line = [sys.executable, "-m", "tests.matrix.group_architectures", "--rank"]
    with TemporaryDirectory() as folder:
        ranks = [
            subprocess.Popen([*line, str(rank), addresses, folder, *names]) for rank in range(_SIZE)
        ]
        for rank in ranks:
            rank.wait()


def compare(rank: int, addresses: list[str], folder: Path, names: list[str]) -> None:
    """Runs in each rank."""
    ring = open_ring(rank, addresses)
    for name in names:
        # A model begins with random biases, which must be the same for all ranks.
        mx.random.seed(0)
        try:
            path = write_architecture(folder / f"{name}-{rank}", name)
            result = _result(path, ring)
        except Exception as error:  # noqa: BLE001 - what mlx-lm cannot make here is reported
            result = f"not made: {type(error).__name__}: {str(error)[:80]}"
        if rank == 0 and result:
            print(name, result, flush=True)


def _result(path: Path, ring: Ring) -> str:
    """Empty if mlx-lm cannot divide it."""
    whole, _ = read_model(path)
    if not can_divide(whole):
        return ""
    expected = _scores(whole)
    part, _ = read_model(path)
    try:
        divide(part, ring)
    except MeshError as error:
        return error.message
    gap = np.abs(_scores(part) - expected).max() / np.ptp(expected)
    return "exact" if gap < _ROUNDING else f"differs by {gap:.1e}"


def _scores(model: Any) -> np.ndarray[Any, Any]:
    cache = BatchCache.empty(model, 1, Batching.ALONE)
    feed(model, [_PROMPT[:-1]], cache)
    evaluate(cache.arrays())
    return np.array(cast("Any", feed(model, [_PROMPT[-1:]], cache)[0, -1]), np.float64)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        compare(int(sys.argv[2]), json.loads(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
    else:
        main()
