"""Products of all sizes in both layouts against numpy's own."""

import numpy as np
import pytest

from mlxmesh_engine.cpu.products import Layout, Product, choose_layout

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


@pytest.mark.parametrize(("durations", "blocked"), [((2.0, 1.0), True), ((1.0, 1.0), False)])
def test_the_faster_layout_is_chosen(durations: tuple[float, float], blocked: bool) -> None:
    """The clock gives each product of the plain layout, then of the blocked, its duration."""
    plain, other = durations
    ticks = iter([tick for each in (plain, other) for _ in range(5) for tick in (0.0, each)])
    assert choose_layout(lambda: next(ticks)) == Layout(blocked=blocked)


def test_small_products_stay_below_the_limit_of_their_kernels() -> None:
    layout = Layout(blocked=True)
    for inputs in (1, 64, 576, 1024, 1920):
        for rows in range(1, 300):
            at_once = layout.rows_at_once(rows, inputs)
            assert 1 <= at_once <= 16
            assert at_once * inputs * 64 <= 1_000_000
