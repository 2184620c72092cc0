"""The models that a fresh mesh serves: the bundled ones, or those that the caller names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxmesh_shared.errors import InvalidArgument

DEFAULT_MODEL = "pocket"


@dataclass(frozen=True)
class ModelSource:
    """A model to register and load: a directory, a GGUF file, or a hub id (`owner/name`)."""

    name: str
    directory: Path | None = None
    repo_id: str = ""
    file: Path | None = None
    load: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """More arguments of `MeshClient.load_model`."""


def model_name(file: Path) -> str:
    """A model's name for a file: its own, as far as names allow."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).lstrip("._-")
    return name[:96] or "model"


def bundled_models() -> dict[str, ModelSource]:
    """The models that come with mlxmesh, by name: in the wheel, or in a source checkout."""
    here = Path(__file__).parent
    roots = (here / "models", here.parent / "demo-model")
    return {
        config.parent.name: ModelSource(name=config.parent.name, directory=config.parent)
        for root in roots
        for config in sorted(root.glob("*/config.json"))
    }


def parse_source(text: str) -> ModelSource:
    """What `--model TEXT` means: a bundled name, a directory, a GGUF file, or a hub id, in this
    order.

    Raises InvalidArgument with the possibilities when it is none of them.
    """
    bundled = bundled_models()
    if text in bundled:
        return bundled[text]
    directory = Path(text).expanduser()
    if (directory / "config.json").is_file():
        return ModelSource(name=directory.resolve().name, directory=directory.resolve())
    if directory.suffix == ".gguf" and directory.is_file():
        return ModelSource(name=model_name(directory), file=directory.resolve())
    owner, _, name = text.partition("/")
    if owner and name and "/" not in name and not text.startswith((".", "~", "/")):
        return ModelSource(name=name, repo_id=text)
    raise InvalidArgument(
        f"{text!r} is not a bundled model ({', '.join(bundled) or 'none here'}), "
        "a directory with a config.json, a GGUF file, or a hub id such as "
        "mlx-community/Qwen3-0.6B-4bit",
        field="model",
    )


@dataclass(frozen=True)
class MeshOptions:
    """What to run."""

    data_dir: Path
    grpc_port: int | None = None
    """Port of the gateway; 0 takes a free one, None leaves it to the gateway's settings."""
    http_port: int | None = None
    """Port of its HTTP, likewise."""
    replicas: int | None = None
    """Of each model that is loaded; None is one, or as many as before."""
    models: tuple[ModelSource, ...] = ()
    """What to load; with none, what was loaded before, and in a fresh data directory `pocket`."""
    flags: tuple[str, ...] = ()
    """Settings' flags that every service gets, such as `--registry consul`."""
    tls: bool = False
    """Whether to run with TLS, by certificates made and renewed in the data directory."""
    tls_dir: Path | None = None
    """Certificates that others make, where the settings name them; `tls` comes before it."""
    stop_grace_s: float | None = None
    """How long running calls may go on when the mesh stops; None leaves it to the settings."""

    @property
    def settings_flags(self) -> tuple[str, ...]:
        """The flags that make a process, or this one, belong to the mesh."""
        return ("--data-dir", str(self.data_dir), *self.flags)
