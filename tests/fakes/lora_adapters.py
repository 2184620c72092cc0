"""Writes LoRA adapters in mlx-lm's and PEFT's formats."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_Array = Any


def write_tensors(path: Path, tensors: Mapping[str, _Array], dtype: str = "F32") -> None:
    """A safetensors file. dtype: F32, F16 or BF16, to which the values are cut."""
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        stored = encoded(np.asarray(values, np.float32), dtype)
        offsets = [len(data), len(data) + len(stored)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        data += stored
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def encoded(values: _Array, dtype: str) -> bytes:
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def write_mlx_lm(
    directory: Path,
    layers: Mapping[str, tuple[_Array, _Array]],
    *,
    scale: float = 2.0,
    dtype: str = "F32",
    config: Mapping[str, Any] | None = None,
    rank: int | None = None,
) -> Path:
    """layers: (a, b) by module path, shaped (inputs, rank) and (rank, outputs)."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, _Array] = {}
    for path, (a, b) in layers.items():
        tensors[f"{path}.lora_a"], tensors[f"{path}.lora_b"] = a, b
        rank = rank or a.shape[1]
    names = sorted({path.partition(".layers.")[2].partition(".")[2] for path in layers})
    content = {
        "fine_tune_type": "lora",
        "num_layers": -1,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": names},
        **(config or {}),
    }
    (directory / "adapter_config.json").write_text(json.dumps(content))
    write_tensors(directory / "adapters.safetensors", tensors, dtype)
    return directory


def write_peft(
    directory: Path,
    layers: Mapping[str, tuple[_Array, _Array]],
    *,
    alpha: float = 16.0,
    dtype: str = "F32",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """As `write_mlx_lm`; the files hold both matrices transposed."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, _Array] = {}
    rank = 0
    for path, (a, b) in layers.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = np.ascontiguousarray(a.T)
        tensors[f"base_model.model.{path}.lora_B.weight"] = np.ascontiguousarray(b.T)
        rank = rank or a.shape[1]
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "bias": "none",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({path.rpartition(".")[2] for path in layers}),
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        **(config or {}),
    }
    (directory / "adapter_config.json").write_text(json.dumps(content))
    write_tensors(directory / "adapter_model.safetensors", tensors, dtype)
    return directory


def random_layers(
    shapes: Mapping[str, tuple[int, int]], *, rank: int = 4, seed: int = 0, size: float = 0.1
) -> dict[str, tuple[_Array, _Array]]:
    """Matrices for linear layers. shapes: (outputs, inputs) by module path."""
    rng = np.random.default_rng(seed)
    return {
        path: (
            (rng.standard_normal((inputs, rank)) * size).astype(np.float32),
            (rng.standard_normal((rank, outputs)) * size).astype(np.float32),
        )
        for path, (outputs, inputs) in shapes.items()
    }
