"""Products of all sizes in both layouts against numpy's own."""

import os
from collections.abc import Callable

import numpy as np
import pytest

from mlxmesh_engine.cpu.products import Layout, Product, choose_layout
from mlxmesh_engine.cpu.workers import Workers, usable_cores

LAYOUTS = [Layout(blocked=True), Layout(blocked=False)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["blocked", "plain"])
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(64, 32), (1, 1), (100, 7), (192, 2000), (70, 4001)]
)
def test_a_product_of_any_size(layout: Layout, outputs: int, inputs: int) -> None:
    rng = np.random.default_rng(outputs + inputs)
    weight = rng.standard_normal((outputs, inputs), dtype=np.float32)
    bias = rng.standard_normal(outputs, dtype=np.float32)
    product = Product(weight, bias, layout)
    for rows in (1, 2, 3, 4, 8, 13, 17, 40, 129):
        values = rng.standard_normal((rows, inputs), dtype=np.float32)
        wanted = values.astype(np.float64) @ weight.T.astype(np.float64) + bias
        np.testing.assert_allclose(product(values), wanted, atol=2e-3 if inputs > 1000 else 1e-4)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["blocked", "plain"])
def test_rows_of_the_weights(layout: Layout) -> None:
    weight = np.arange(100 * 2000, dtype=np.float32).reshape(100, 2000)
    wanted = np.array([0, 99, 63, 64, 0])
    assert np.array_equal(Product(weight, None, layout).weight_rows(wanted), weight[wanted])


def clock_of(*durations: float) -> Callable[[], float]:
    """A clock with which each sample takes its duration in every round."""
    return iter([tick for each in durations for _ in range(5) for tick in (0.0, each)]).__next__


@pytest.mark.parametrize(("plain", "blocked", "chosen"), [(2.0, 1.0, True), (1.0, 1.0, False)])
def test_the_faster_layout_is_chosen(plain: float, blocked: float, chosen: bool) -> None:
    assert choose_layout(clock=clock_of(plain, blocked)).blocked is chosen


@pytest.mark.parametrize(
    ("durations", "threads"),
    [((4.0, 2.0, 1.0), 8), ((4.0, 2.0, 1.9), 4), ((4.0, 4.0, 4.0), 1), ((4.0, 4.0, 1.0), 8)],
)
def test_the_fewest_threads_that_are_fast_are_chosen(
    durations: tuple[float, ...], threads: int
) -> None:
    layout = choose_layout(cores=8, clock=clock_of(1.0, 1.0, *durations))
    assert layout.workers.threads == threads
    layout.workers.close()


def test_a_set_number_of_threads_is_used() -> None:
    layout = choose_layout(threads=3, cores=8, clock=clock_of(1.0, 1.0))
    assert layout.workers.threads == 3
    layout.workers.close()


@pytest.mark.parametrize("blocked", [True, False])
def test_threads_compute_the_same(blocked: bool) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((1000, 600), dtype=np.float32)
    layout = Layout(blocked=blocked, workers=Workers(3))
    for rows in (1, 2, 9, 100):
        values = rng.standard_normal((rows, 600), dtype=np.float32)
        alone = Product(weight, None, Layout(blocked=blocked))(values)
        np.testing.assert_allclose(Product(weight, None, layout)(values), alone, atol=1e-4)
    layout.workers.close()


def test_every_part_of_a_range_is_run_once_and_errors_are_raised() -> None:
    workers = Workers(4)
    seen: list[int] = []
    for count in (1, 3, 4, 5, 17):
        seen.clear()
        workers.split(count, lambda start, stop: seen.extend(range(start, stop)))
        assert sorted(seen) == list(range(count))

    def fail(start: int, stop: int) -> None:
        raise ValueError(f"{start} {stop}")

    with pytest.raises(ValueError, match="0 2"):
        workers.split(8, fail)
    workers.close()


def test_at_least_one_core_is_usable() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_small_products_stay_below_the_limit_of_their_kernels() -> None:
    layout = Layout(blocked=True)
    for inputs in (1, 64, 576, 1024, 1920):
        for rows in range(1, 300):
            at_once = layout.rows_at_once(rows, inputs)
            assert 1 <= at_once <= 16
            assert at_once * inputs * 64 <= 1_000_000
