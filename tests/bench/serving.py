"""A mesh of real processes to measure, and the model that it serves."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxmesh_launcher.smollm2 import smollm2
from mlxmesh_model.gguf.conversion import convert
from mlxmesh_model.gguf.weights import Dtype
from tests.bench.results import MODEL_VARIABLE

MODEL = "bench"
MESH = ("gateway", "generation", "engine")
"""The processes that a stream passes through."""


@dataclass(frozen=True)
class Mesh:
    """A running mesh: where its services are, and which process each one is."""

    addresses: dict[str, str]
    pids: dict[str, int]
    engines: dict[str, int] = field(default_factory=dict[str, int])
    """The address and process of every engine: one for each model and replica."""
    http: str = ""
    """Where HTTP clients connect."""
    data_dir: Path = Path()

    @property
    def address(self) -> str:
        """Where clients connect."""
        return self.addresses["gateway"]


@contextlib.contextmanager
def bench_model() -> Iterator[Path]:
    """The model's directory, written by a process of its own, so that this one holds no MLX."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder:
        model = Path(folder) / MODEL
        if os.environ.get(MODEL_VARIABLE):
            write_smollm2(model)
            yield model
            return
        subprocess.run([sys.executable, "-m", "tests.bench.bench_model", str(model)], check=True)
        yield model


def write_smollm2(directory: Path) -> None:
    """The real model in bfloat16, without its end tokens: every answer is as long as asked for."""
    convert(smollm2(), directory, Dtype.BFLOAT16, lambda done, total: None)
    config = json.loads((directory / "config.json").read_text())
    del config["eos_token_id"]
    (directory / "config.json").write_text(json.dumps(config))


@contextlib.contextmanager
def serving(model: Path, *options: str, telemetry: bool = True, **engine: object) -> Iterator[Mesh]:
    """A mesh that serves the model; `options` are those of `mlxmesh up`, `engine` its settings."""
    own = {f"MLXMESH_ENGINE_{name.upper()}": str(value) for name, value in engine.items()}
    own["MLXMESH_TELEMETRY"] = str(telemetry)
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as data_dir:

        def command(*words: str) -> Any:
            line = [sys.executable, "-m", "mlxmesh_cli", *words, "--json", "--data-dir", data_dir]
            done = subprocess.run(
                line, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | own
            )
            return json.loads(done.stdout)

        up = command("up", "--detach", "--grpc-port", "0", "--model", str(model), *options)
        try:
            instances = [one for one in command("status")["instances"] if one["service"] in MESH]
            yield Mesh(
                {one["service"]: one["address"] for one in instances},
                {one["service"]: one["pid"] for one in instances},
                {one["address"]: one["pid"] for one in instances if one["service"] == "engine"},
                up["http"],
                Path(data_dir),
            )
        finally:
            command("down")


@contextlib.contextmanager
def simulated(model: Path, *options: str, **engine: Any) -> Iterator[Mesh]:
    """A mesh whose engine makes up its tokens, and reads prompts in no time."""
    own: dict[str, Any] = {"backend": "simulated", "simulated_prefill_us_per_token": 0}
    with serving(model, *options, **(own | engine)) as mesh:
        yield mesh
