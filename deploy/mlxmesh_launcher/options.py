"""What a whole mesh on one host is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlxmesh_launcher.models import ModelSource


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
