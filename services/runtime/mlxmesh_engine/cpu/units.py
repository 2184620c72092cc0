"""The gated unit of a block, and mixtures of them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.cpu.blocks import Activation, Experts, GatedUnit
from mlxmesh_engine.cpu.products import Floats


def run_unit(unit: GatedUnit | Experts, values: Floats) -> Floats:
    """Values (tokens, features) to the unit's output of the same shape."""
    return _run_experts(unit, values) if isinstance(unit, Experts) else _run_gated(unit, values)


# Gates of so many tokens stay in a core's cache between their operations.
_TOKENS_AT_ONCE = 64


def _run_gated(unit: GatedUnit, values: Floats) -> Floats:
    gated = unit.gated(values)
    size = gated.shape[1] // 2
    kept = np.empty((len(values), size), np.float32)
    for start in range(0, len(values), _TOKENS_AT_ONCE):
        part = slice(start, start + _TOKENS_AT_ONCE)
        activate(unit.activation, gated[part, :size], kept[part])
        kept[part] *= gated[part, size:]
    return unit.down(kept)


def activate(activation: Activation, gate: Floats, result: Floats) -> None:
    """Writes the activation of the gate to `result`, of the same shape."""
    _ACTIVATIONS[activation](gate, result)


def _silu(gate: Floats, result: Floats) -> None:
    """The gate times its sigmoid."""
    np.negative(gate, out=result)
    _multiply_by_sigmoid(gate, result)


def _gelu_tanh(gate: Floats, result: Floats) -> None:
    """With u = sqrt(2 / pi) * (gate + 0.044715 gate^3): gate / 2 * (1 + tanh(u)).

    Computed as gate * sigmoid(2 u), which is equal.
    """
    factor = -2 * np.sqrt(2 / np.pi)
    np.square(gate, out=result)
    result *= np.float32(0.044715 * factor)
    result += np.float32(factor)
    result *= gate
    _multiply_by_sigmoid(gate, result)


def _multiply_by_sigmoid(gate: Floats, negated: Floats) -> None:
    """Writes gate / (1 + exp(negated)) to `negated`."""
    # An infinite power makes the quotient 0, as it must be.
    with np.errstate(over="ignore"):
        np.exp(negated, out=negated)
    negated += np.float32(1)
    np.divide(gate, negated, out=negated)


# erfc(x) = (a1 t + ... + a5 t^5) exp(-x^2) with t = 1 / (1 + p x), within 1.5e-7 for x >= 0.
# Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
_ERFC_P = 0.3275911
_ERFC_FACTORS = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _gelu_erf(gate: Floats, result: Floats) -> None:
    """The exact one: max(gate, 0) - |gate| / 2 * erfc(|gate| / sqrt(2))."""
    size = np.abs(gate)
    share = size * np.float32(_ERFC_P / np.sqrt(2))
    share += np.float32(1)
    np.reciprocal(share, out=share)
    result[...] = np.float32(_ERFC_FACTORS[-1])
    for factor in _ERFC_FACTORS[-2::-1]:
        result *= share
        result += np.float32(factor)
    result *= share
    result *= size
    np.square(gate, out=share)
    share *= np.float32(-0.5)
    np.exp(share, out=share)
    result *= share
    result *= np.float32(-0.5)
    np.maximum(gate, 0, out=share)
    result += share


_ACTIVATIONS: dict[Activation, Callable[[Floats, Floats], None]] = {
    Activation.SILU: _silu,
    Activation.GELU_TANH: _gelu_tanh,
    Activation.GELU_ERF: _gelu_erf,
}


def _run_experts(experts: Experts, values: Floats) -> Floats:
    chosen, weights = _route(experts, values)
    # By expert, so that each runs once over all of its tokens.
    order = np.argsort(chosen, axis=None, kind="stable")
    tokens, by_expert = order // experts.per_token, weights.reshape(-1)[order, None]
    ends = np.cumsum(np.bincount(chosen.reshape(-1), minlength=len(experts.units)))
    output, start = _run_shared(experts, values), 0
    for unit, end in zip(experts.units, ends.tolist(), strict=True):
        if end > start:
            own = tokens[start:end]
            # A token chooses an expert only once, so `own` has no duplicates.
            output[own] += _run_gated(unit, values[own]) * by_expert[start:end]
        start = end
    return output


def _route(experts: Experts, values: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The units that each token goes through and their weights: (tokens, per_token) both."""
    scores = experts.router(values)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    chosen = np.argpartition(scores, -experts.per_token, axis=-1)[:, -experts.per_token :]
    weights = np.take_along_axis(scores, chosen, axis=-1)
    counted = weights if experts.normalize else scores
    return chosen, weights / counted.sum(axis=-1, keepdims=True)


def _run_shared(experts: Experts, values: Floats) -> Floats:
    """What the unit for all tokens adds; zeros without one."""
    if experts.shared is None:
        return np.zeros_like(values)
    output = _run_gated(experts.shared, values)
    if experts.shared_gate is not None:
        gate = experts.shared_gate(values)
        ones = np.ones_like(gate)
        np.negative(gate, out=gate)
        _multiply_by_sigmoid(ones, gate)
        output *= gate
    return output
