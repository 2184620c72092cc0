"""Gated units and mixtures of them, against their definitions in float64."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxmesh_engine.cpu.blocks import Activation, Experts, GatedUnit
from mlxmesh_engine.cpu.products import Layout, Product
from mlxmesh_engine.cpu.units import run_unit

FEATURES, SIZE, EXPERTS = 8, 12, 5
LAYOUT = Layout(blocked=False)


def drawn(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def gelu_tanh(value: float) -> float:
    return value / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))


DEFINITIONS = {
    Activation.SILU: lambda value: value * sigmoid(value),
    Activation.GELU_TANH: gelu_tanh,
    Activation.GELU_ERF: lambda value: value / 2 * math.erfc(-value / math.sqrt(2)),
}


def product(weight: NDArray[np.float32]) -> Product:
    return Product(weight, None, LAYOUT)


def unit_of(seed: int) -> tuple[GatedUnit, NDArray[np.float32], NDArray[np.float32]]:
    gated, down = drawn(2 * SIZE, FEATURES, seed=seed), drawn(FEATURES, SIZE, seed=seed)
    return GatedUnit(product(gated), product(down)), gated, down


def textbook(
    gated: NDArray[np.float32], down: NDArray[np.float32], value: NDArray[np.float32]
) -> NDArray[np.float64]:
    gate, kept = np.split(gated.astype(np.float64) @ value.astype(np.float64), 2)
    return down.astype(np.float64) @ (gate / (1 + np.exp(-gate)) * kept)


@pytest.mark.parametrize("activation", list(Activation))
def test_activations_are_accurate_to_float32(activation: Activation) -> None:
    """A unit of one feature: the gate is the value, and it gates a one."""
    values = np.concatenate([np.linspace(-12, 12, 4001), [-1e4, -1e9, 1e4]]).astype(np.float32)
    gated = Product(np.eye(2, 1, dtype=np.float32), np.array([0, 1], np.float32), LAYOUT)
    unit = GatedUnit(gated, product(np.ones((1, 1), np.float32)), activation)
    found = run_unit(unit, values[:, None])[:, 0]
    wanted = np.array([DEFINITIONS[activation](float(value)) for value in values])
    np.testing.assert_allclose(found, wanted, rtol=3e-7, atol=4e-7)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 200])
def test_tokens_in_tiles_equal_each_alone(tokens: int) -> None:
    unit, gated, down = unit_of(1)
    values = drawn(tokens, FEATURES)
    wanted = [textbook(gated, down, value) for value in values]
    np.testing.assert_allclose(run_unit(unit, values), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("per_token", [1, 2, EXPERTS])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("tokens", [1, 40])
def test_each_token_goes_through_its_experts(
    normalize: bool, per_token: int, shared: bool, tokens: int
) -> None:
    units = [unit_of(seed) for seed in range(EXPERTS + 1)]
    router, gate, values = drawn(EXPERTS, FEATURES), drawn(1, FEATURES), drawn(tokens, FEATURES)
    experts = Experts(
        product(router),
        tuple(unit for unit, _, _ in units[:EXPERTS]),
        per_token,
        normalize,
        shared=units[EXPERTS][0] if shared else None,
        shared_gate=product(gate) if shared else None,
    )
    wanted: list[NDArray[np.float64]] = []
    for value in values:
        weights = np.exp(router.astype(np.float64) @ value)
        chosen = np.argsort(weights)[-per_token:]
        weights /= weights[chosen].sum() if normalize else weights.sum()
        total = sum(weights[at] * textbook(units[at][1], units[at][2], value) for at in chosen)
        if shared:
            total += sigmoid(float(gate[0] @ value)) * textbook(
                units[EXPERTS][1], units[EXPERTS][2], value
            )
        wanted.append(np.asarray(total))
    np.testing.assert_allclose(run_unit(experts, values), wanted, rtol=1e-4, atol=1e-4)
