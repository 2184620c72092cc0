"""Whether a model can fit into this host's memory. Pure but for reading file sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlxmesh_shared.errors import InsufficientMemory

# An engine process with mlx, mlx-lm, a small KV cache and its working memory, beside the weights.
ENGINE_OVERHEAD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Memory:
    """Memory that models can use on a host."""

    total_bytes: int
    available_bytes: int


def needed_bytes(model_dir: Path) -> int:
    """The least memory that an engine of this model takes: its weights as shipped, and itself.

    An engine on a CPU expands weights to float32 only where memory allows, so that the expanded
    size is no reason to refuse it.
    """
    weights_bytes = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    return weights_bytes + ENGINE_OVERHEAD_BYTES


def check_fits(
    *, needed_bytes: int, reserved_bytes: int, memory: Memory, memory_fraction: float
) -> None:
    """Refuse an engine that would not fit into `memory_fraction` of what is free.

    `reserved_bytes` is what engines that still load are going to take.
    Raises: InsufficientMemory, with the figures.
    """
    free_bytes = max(0, memory.available_bytes - reserved_bytes)
    usable_bytes = round(memory_fraction * free_bytes)
    if needed_bytes > usable_bytes:
        raise InsufficientMemory(
            f"the model needs at least {_mib(needed_bytes)}, but {_mib(usable_bytes)} can be used: "
            f"{memory_fraction:.0%} of {_mib(free_bytes)} that are free of "
            f"{_mib(memory.total_bytes)}, with {_mib(reserved_bytes)} set aside for engines that "
            "still load; unload a model, or load a smaller or quantized one"
        )


def _mib(number_of_bytes: int) -> str:
    return f"{number_of_bytes / 2**20:,.0f} MiB"
