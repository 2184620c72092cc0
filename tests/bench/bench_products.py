"""Products at real sizes on a CPU: how fast each layout and each format of the weights is.

    .venv/bin/python -m tests.bench.bench_products [--rounds 5] [--json FILE]

Weights of 4,096 by 1,024, eight of them, so that no cache holds them. This says why the forward
pass for CPUs stores float32 in blocks: see docs/decisions/0038.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()

import mlx.core as mx  # noqa: E402 - only after the BLAS is chosen, as numpy
import numpy as np  # noqa: E402

from mlxmesh_engine.cpu import products  # noqa: E402
from tests.bench.results import Findings, Result, Row, run_alone  # noqa: E402


def cpu_seconds(work: Callable[[], object], rounds: int) -> float:
    """The least of several rounds after one that is not counted."""
    work()

    def once() -> float:
        start = time.thread_time()
        work()
        return time.thread_time() - start

    return min(once() for _ in range(rounds))


def machine_speed(rounds: int) -> tuple[float, float]:
    """FLOP/s of a large product, and bytes/s of reading memory; one thread."""
    size = 1024
    square = np.ones((size, size), np.float32)
    flops = 2 * size**3 / cpu_seconds(lambda: square @ square, rounds)
    large = np.ones(2**26, np.float32)
    return flops, large.nbytes / cpu_seconds(large.max, rounds)


def layouts(rounds: int, bandwidth: float) -> list[Row]:
    """One product of 1,024 by 4,096 weights, by rows: speed of each layout in GFLOP/s."""
    shape = (4096, 1024)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape, dtype=np.float32) for _ in range(8)]
    sides = {
        "plain": [products.Product(each, None, products.Layout(blocked=False)) for each in weights],
        "blocked": [
            products.Product(each, None, products.Layout(blocked=True)) for each in weights
        ],
    }
    found: list[Row] = []
    for rows in (1, 2, 4, 8, 16, 32, 128, 512):
        values = rng.standard_normal((rows, shape[1]), dtype=np.float32)

        def multiply(side: list[products.Product], values: Any = values) -> None:
            for product in side:
                product(values)

        flops = 2 * rows * shape[0] * shape[1] * len(weights)
        speeds = {
            name: flops / cpu_seconds(lambda side=side: multiply(side), rounds) / 1e9
            for name, side in sides.items()
        }
        found.append(
            {
                "rows": rows,
                **{f"{name} GFLOP/s": speed for name, speed in speeds.items()},
                "blocked over plain": speeds["blocked"] / speeds["plain"],
                "memory floor GFLOP/s": rows * bandwidth / 2 / 1e9,
            }
        )
    return found


def formats(rounds: int) -> list[Row]:
    """Weights per second at one and eight rows, by how they are stored; 4,096 by 1,024."""
    shape, count = (4096, 1024), 8
    wide = [mx.random.normal(shape) for _ in range(count)]
    narrow = [each.astype(mx.bfloat16) for each in wide]
    packed = {
        bits: [mx.quantize(each, group_size=64, bits=bits) for each in wide] for bits in (8, 4)
    }
    mx.eval(wide, narrow, packed)
    layout = products.choose_layout()
    own = [products.Product(np.array(each), None, layout) for each in wide]
    halves = [np.array(each.view(mx.uint16)) for each in narrow]
    unpacked = np.empty(shape, np.uint32)

    def own_products(rows: int) -> None:
        values = np.ones((rows, shape[1]), np.float32)
        for each in own:
            each(values)

    def unpack_only(_: int) -> None:
        for each in halves:
            np.left_shift(each, 16, out=unpacked, casting="unsafe", dtype=np.uint32)

    def by_mlx(side: list[Any], dtype: mx.Dtype) -> Callable[[int], None]:
        return lambda rows: mx.eval([mx.ones((rows, shape[1]), dtype) @ each.T for each in side])

    def quantized(bits: int) -> Callable[[int], None]:
        return lambda rows: mx.eval(
            [
                mx.quantized_matmul(
                    mx.ones((rows, shape[1])), *each, transpose=True, group_size=64, bits=bits
                )
                for each in packed[bits]
            ]
        )

    sides: dict[str, Callable[[int], None]] = {
        "float32, this pass": own_products,
        "float32, mlx": by_mlx(wide, mx.float32),
        "bfloat16, mlx": by_mlx(narrow, mx.bfloat16),
        "bfloat16, only unpacked by numpy": unpack_only,
        "8 bits, mlx": quantized(8),
        "4 bits, mlx": quantized(4),
    }
    weights = count * shape[0] * shape[1]

    def rate(work: Callable[[int], None], rows: int) -> float:
        work(rows)
        times: list[float] = []
        for _ in range(rounds):
            start = time.perf_counter()
            work(rows)
            times.append(time.perf_counter() - start)
        return weights / min(times) / 1e9

    return [
        {
            "weights": name,
            "10^9 weights/s, 1 row": rate(work, 1),
            "8 rows": rate(work, 8),
        }
        for name, work in sides.items()
    ]


def measure(rounds: int) -> Findings:
    """The layouts, then the formats."""
    mx.set_default_device(mx.Device(mx.cpu))
    _, bandwidth = machine_speed(rounds)
    by_rows, by_format = layouts(rounds, bandwidth), formats(rounds)
    own, *others = [float(row["10^9 weights/s, 1 row"]) for row in by_format]
    results = [
        Result("float32 of this pass over the best other format, 1 row", own / max(others), 1)
    ]
    return Findings(
        results, {"layouts of float32 weights": by_rows, "formats of the weights": by_format}
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=5)
