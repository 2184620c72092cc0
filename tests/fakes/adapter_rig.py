"""A tiny model with adapters of random weights, and mlx-lm alone with each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.request import AdapterSource, SequenceRequest
from mlxmesh_shared.lora.adapter_files import read_adapter
from tests.fakes.engine_rig import STREAM, Rig
from tests.fakes.lora_adapters import random_layers, write_mlx_lm, write_peft
from tests.fakes.tiny_model import mx, nn
from tests.matrix.examination import MAX_TOKENS, Prompt, Reference


@dataclass(frozen=True)
class Adapter:
    """An adapter in files, and mlx-lm with it."""

    source: AdapterSource
    reference: "AdaptedReference"


class AdaptedReference(Reference):
    """mlx-lm by itself with an adapter in its own format; fused, or as its own LoRA layers."""

    def chosen(self, tokens: Prompt, allowed: Sequence[int]) -> int:
        """The most likely of some tokens after these."""
        scores = self._model(mx.array([list(tokens)]))[0, -1]
        return allowed[int(np.argmax(np.array(scores)[list(allowed)]))]

    def __init__(self, model_dir: Path, adapter_dir: Path, *, fused: bool = True) -> None:
        super().__init__(model_dir)
        import_module("mlx_lm.tuner.utils").load_adapters(self._model, str(adapter_dir))
        if fused:
            named: list[tuple[str, Any]] = self._model.named_modules()
            layers = [(path, module.fuse()) for path, module in named if hasattr(module, "fuse")]
            self._model.update_modules(import_module("mlx.utils").tree_unflatten(layers))


def linear_shapes(model_dir: Path) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of all linear modules of the layers of a model, by mlx-lm's own view."""
    model: Any = import_module("mlx_lm.utils").load_model(model_dir)[0]
    shapes: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        if ".layers." in path and isinstance(module, nn.Linear | nn.QuantizedLinear):
            outputs, inputs = module.weight.shape
            bits = module.bits if isinstance(module, nn.QuantizedLinear) else 32
            shapes[path] = outputs, inputs * 32 // bits
    return shapes


def write_adapter(
    folder: Path,
    model_dir: Path,
    *,
    seed: int,
    rank: int = 4,
    peft: bool = False,
    fused: bool = True,
    modules: Sequence[str] = (),
) -> Adapter:
    """An adapter of all linear modules of the layers, or of those whose names end so."""
    layers = _layers(model_dir, rank=rank, seed=seed, modules=modules)
    plain = write_mlx_lm(folder / "mlx_lm", layers, scale=2.0)
    directory = write_peft(folder / "peft", layers, alpha=2.0 * rank) if peft else plain
    reference = AdaptedReference(model_dir, plain, fused=fused)
    return Adapter(_source(directory), reference)


def write_source(
    folder: Path, model_dir: Path, *, seed: int, rank: int = 4, modules: Sequence[str] = ()
) -> AdapterSource:
    """As `write_adapter`, without a reference."""
    layers = _layers(model_dir, rank=rank, seed=seed, modules=modules)
    return _source(write_mlx_lm(folder, layers))


def _layers(model_dir: Path, *, rank: int, seed: int, modules: Sequence[str]) -> Any:
    shapes = {
        path: shape
        for path, shape in linear_shapes(model_dir).items()
        if not modules or path.endswith(tuple(modules))
    }
    return random_layers(shapes, rank=rank, seed=seed, size=0.3)


def _source(directory: Path) -> AdapterSource:
    return AdapterSource(read_adapter(directory).digest, str(directory))


def request(
    number: int, prompt: Prompt, adapter: Adapter | None = None, **options: Any
) -> SequenceRequest:
    source = adapter.source if adapter is not None else None
    return SequenceRequest(
        (STREAM, number),
        prompt,
        MAX_TOKENS,
        adapter=source,
        prefix_namespace=bytes.fromhex(source.digest) if source is not None else b"",
        **options,
    )


def check(
    rig: Rig, rows: Sequence[tuple[Prompt, Adapter | None]], base: Reference, **options: Any
) -> None:
    """Runs all rows at once. Raises AssertionError at a token that is not mlx-lm's own."""
    first = len(rig.updates) + 1
    rig.submit(*(request(first + at, *row, **options) for at, row in enumerate(rows))).run()
    for at, (prompt, adapter) in enumerate(rows):
        assert rig.last(first + at).error is None, rig.last(first + at).error
        reference = adapter.reference if adapter is not None else base
        reference.check(prompt, [*options.get("generated", ()), *rig.tokens(first + at)])


def loaded_scores(loaded: LoadedModel, prompts: Sequence[Prompt], slots: Sequence[int]) -> Any:
    """The scores of all prompts in one pass."""
    loaded.model.adapters.select(slots)
    cache = loaded.model.new_cache([None] * len(prompts))
    scores = loaded.model.scores(prompts, cache)
    loaded.model.adapters.select(())
    return [mx.array(each) for each in scores]
