"""Two OpenBLAS files beside each other: float32 products of the shapes that an engine computes.

The files take turns, each turn in a process of its own, one thread each; CPU time, least of a turn.
To have Debian's without installing it: `apt-get download libopenblas0-pthread libgfortran5`, then
`dpkg-deb -x FILE FOLDER` for both, and LD_LIBRARY_PATH for libgfortran.
Run: .venv/bin/python -m tests.bench.compare_blas OTHER [--file FILE] [--rounds 7]
FILE: by default the one that engines make for themselves.
"""

import argparse
import ctypes
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from mlxmesh_engine.forward.blas import open_blas
from tests.bench.results import Findings, Result, Row, show

ROWS = (1, 8, 32, 512)
LAYERS = ((1024, 3072), (3072, 1024))
REPEATS = 30
# A gain or loss below this is noise.
AS_FAST = 1.05


def measure(library: str) -> dict[str, float]:
    """Seconds of CPU time by product."""
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    taken: dict[str, float] = {}
    for rows, (wide, out) in itertools.product(ROWS, LAYERS):
        inputs = mx.random.normal((rows, wide))
        for name, weights in (
            ("W", mx.random.normal((wide, out))),
            ("W.T", mx.random.normal((out, wide)).T),
        ):
            mx.eval(inputs, weights)
            taken[f"{rows} x {wide} x {out}, {name}"] = least(
                lambda a=inputs, b=weights: mx.eval(a @ b)
            )
    return taken


def least(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def in_a_process(library: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.compare_blas", library, "--measure"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(ended.stdout)


def compare(ours: str, other: str, rounds: int) -> Findings:
    turns = [(in_a_process(ours), in_a_process(other)) for _ in range(rounds)]
    rows: list[Row] = []
    ratios: list[float] = []
    for name in turns[0][0]:
        ratio = statistics.median(theirs[name] / mine[name] for mine, theirs in turns)
        ratios.append(ratio)
        rows.append(
            {
                "product": name,
                "ours, us": statistics.median(mine[name] for mine, _ in turns) * 1e6,
                "other, us": statistics.median(theirs[name] for _, theirs in turns) * 1e6,
                "speed of ours": ratio,
            }
        )
    speed = statistics.geometric_mean(ratios)
    result = Result("speed of ours beside the other's, geometric mean", speed, 1 / AS_FAST)
    return Findings([result], {"ours beside the other": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other")
    # Sets the threads and kernels of the processes too.
    parser.add_argument("--file", default=open_blas().library)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.other)))
    else:
        show(compare(options.file, options.other, options.rounds))


if __name__ == "__main__":
    main()
