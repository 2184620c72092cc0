"""Saves and loads what a training run needs to go on: weights, optimizer, progress."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten, tree_unflatten


@dataclass(slots=True)
class Progress:
    """How far a run is: updates, tokens and seconds spent, and the place in the data."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    pool: int = 0
    batch: int = 0

    def advance(self, *, tokens: int, seconds: float) -> None:
        """Count one update."""
        self.step += 1
        self.tokens += tokens
        self.seconds += seconds

    def done(self, arguments: argparse.Namespace) -> float:
        """Return the finished share of the run, 0 to 1."""
        if arguments.steps:
            return self.step / arguments.steps
        return self.seconds / (60 * arguments.minutes)


def save(folder: Path, model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
    """Write a checkpoint; the old one stays whole until the new one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"model": model.parameters(), "optimizer": optimizer.state}
    arrays = dict(cast(list[tuple[str, mx.array]], tree_flatten(parts)))
    pending = folder / "pending.safetensors"
    mx.save_safetensors(str(pending), arrays, metadata={"progress": json.dumps(asdict(progress))})
    pending.replace(folder / "checkpoint.safetensors")


def load(folder: Path, model: nn.Module, optimizer: Optimizer) -> Progress:
    """Restore the model and the optimizer in place; a fresh run where there is no checkpoint."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return Progress()
    arrays, metadata = cast(
        tuple[dict[str, mx.array], dict[str, str]], mx.load(str(path), return_metadata=True)
    )
    parts = cast(dict[str, Any], tree_unflatten(arrays))
    model.update(parts["model"])
    optimizer.state = parts["optimizer"]
    return Progress(**json.loads(metadata["progress"]))


def weights(folder: Path) -> dict[str, Any]:
    """Return the model's parameters of the checkpoint."""
    arrays = cast(dict[str, mx.array], mx.load(str(folder / "checkpoint.safetensors")))
    return cast(dict[str, Any], tree_unflatten(arrays))["model"]
