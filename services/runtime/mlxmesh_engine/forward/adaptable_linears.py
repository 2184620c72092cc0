"""Finds the linear layers of a model of mlx-lm that can have adapters."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import mlx.core as mx
from mlx import nn

from mlxmesh_shared.lora.module_paths import from_layer

_log = logging.getLogger(__name__)

PROBED_TOKENS = (3, 1, 1)


@dataclass(frozen=True, slots=True)
class AdaptableLinear:
    """A layer that can have an adapter."""

    module: nn.Module
    shape: tuple[int, int]
    dtype: mx.Dtype
    """Of what it computes."""


def find_linears(model: Any, probe: Callable[[], Iterator[None]]) -> dict[str, AdaptableLinear]:
    """The linear layers that every pass calls with inputs (rows, tokens, n) or (rows, n), by path.

    Others cannot have an adapter: some models read weights without calling the layer, mix rows and
    tokens before it, or compile their pass.
    """
    found = {path: _Probed(module) for path, module in _candidates(model).items()}
    try:
        for tokens, _ in zip(PROBED_TOKENS, probe(), strict=True):
            for probed in found.values():
                probed.check(tokens)
    except Exception:  # noqa: BLE001 - a model may raise anything
        _log.exception("no layer of this model can have an adapter")
        return {}
    finally:
        for probed in found.values():
            probed.restore()
    return {
        path: AdaptableLinear(probed.module, _shape(probed.module), probed.dtype)
        for path, probed in found.items()
        if probed.dtype is not None
    }


class _Probed:
    """A linear layer whose calls are recorded."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.dtype: mx.Dtype | None = mx.float32
        """Of its outputs; None if it was not called as it must be."""
        self._kind: Any = type(module)
        self.calls: list[tuple[tuple[int, ...], mx.Dtype]] = []
        object.__setattr__(module, "probed", self)
        module.__class__ = _recording(self._kind)

    def check(self, tokens: int) -> None:
        """Call it after a pass of one row."""
        rows_first = {shape[:-1] for shape, _ in self.calls} <= {(1, tokens), (1,)}
        if not (self.calls and rows_first and self.dtype is not None):
            self.dtype = None
        else:
            self.dtype = self.calls[0][1]
        self.calls.clear()

    def restore(self) -> None:
        self.module.__class__ = self._kind
        object.__delattr__(self.module, "probed")


def _candidates(model: Any) -> dict[str, nn.Module]:
    """The linear modules of the layers; not those that stand in two places."""
    named = cast("list[tuple[str, nn.Module]]", model.named_modules())
    found = [
        (path, module)
        for path, module in named
        if type(module) in (nn.Linear, nn.QuantizedLinear) and from_layer(path) is not None
    ]
    places: dict[int, int] = {}
    for _, module in found:
        places[id(module)] = places.get(id(module), 0) + 1
    return {path: module for path, module in found if places[id(module)] == 1}


def _shape(linear: Any) -> tuple[int, int]:
    """(outputs, inputs)"""
    outputs, inputs = linear.weight.shape
    return outputs, inputs * 32 // linear.bits if isinstance(linear, nn.QuantizedLinear) else inputs


@cache
def _recording(kind: Any) -> Any:
    class Recording(kind):
        def __call__(self, x: mx.array) -> mx.array:
            y: mx.array = kind.__call__(self, x)
            self.probed.calls.append((tuple(x.shape), y.dtype))
            return y

    return Recording
