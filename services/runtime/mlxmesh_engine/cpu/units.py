"""The gated unit of a block, and mixtures of them."""

import numpy as np

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
        _activate(gated[part, :size], kept[part], unit.activation)
        kept[part] *= gated[part, size:]
    return unit.down(kept)


def _activate(gate: Floats, result: Floats, activation: Activation) -> None:
    """Writes the activation of the gate to `result`."""
    if activation is Activation.SILU:
        np.negative(gate, out=result)
        # For a large negative gate exp is infinite and the quotient 0, as it must be.
        with np.errstate(over="ignore"):
            np.exp(result, out=result)
        result += np.float32(1)
        np.divide(gate, result, out=result)
    else:
        raise NotImplementedError(activation)


def _run_experts(experts: Experts, values: Floats) -> Floats:
    raise NotImplementedError
