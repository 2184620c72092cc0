"""The peers: what each is, how it is started, and the two ways in which it is measured.

Started as their own guides say for many clients at once, everything else at its default. One
thing is left out: vllm-mlx names torch, which its text path never imports, so that the
environment takes 1 GB instead of 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlxmesh_engine.forward.blas import open_blas

Argv = list[str]


@dataclass(frozen=True)
class Site:
    """Where a peer runs: its programs, the model, and one port for each process and one spare."""

    programs: Path
    model: Path
    ports: tuple[int, ...]

    def argv(self, program: str, *arguments: str | int | Path) -> Argv:
        """The command line of one of the peer's own programs."""
        return [str(self.programs / program), *map(str, arguments)]


@dataclass(frozen=True)
class Peer:
    """A server to compare with; its pins are in pins/<name>.txt."""

    name: str
    version: str
    """The distribution that is measured, as pinned."""
    commands: Callable[[Site], list[Argv]]
    """Its processes in the order of starting; each listens on its port, clients use the last."""


@dataclass(frozen=True)
class Variant:
    """A way to run a peer."""

    name: str
    dtype: Literal["bfloat16", "float32"]
    environment: dict[str, str] = field(default_factory=dict)


AS_SHIPPED = Variant("as shipped", "bfloat16")
# What our engine gives itself: the same library, the same number of its threads.
GIVEN_OURS = Variant(
    "float32, OpenBLAS",
    "float32",
    {"LD_PRELOAD": open_blas().library, "OPENBLAS_NUM_THREADS": "1"},
)
VARIANTS = (AS_SHIPPED, GIVEN_OURS)


def _mlx_lm(site: Site) -> list[Argv]:
    where = ("--host", "127.0.0.1", "--port", site.ports[0])
    return [site.argv("mlx_lm.server", "--model", site.model, *where)]


def _smg(site: Site) -> list[Argv]:
    """A gRPC worker, and the gateway before it."""
    worker_port, gateway_port, metrics_port = site.ports
    worker = ("-m", "smg_grpc_servicer.mlx.server", "--model", site.model)
    behind = ("--worker-urls", f"grpc://127.0.0.1:{worker_port}", "--model-path", site.model)
    metrics = ("--prometheus-host", "127.0.0.1", "--prometheus-port", metrics_port)
    where = ("--host", "127.0.0.1", "--port", gateway_port)
    return [
        site.argv("python", *worker, "--host", "127.0.0.1", "--port", worker_port),
        site.argv("smg", "launch", *behind, *metrics, *where),
    ]


def _vllm_mlx(site: Site) -> list[Argv]:
    where = ("--host", "127.0.0.1", "--port", site.ports[0])
    return [site.argv("vllm-mlx", "serve", site.model, *where, "--continuous-batching")]


PEERS = (
    Peer("mlx-lm", "mlx-lm==0.32.2", _mlx_lm),
    Peer("smg", "smg==1.13.0", _smg),
    Peer("vllm-mlx", "vllm-mlx==0.6.0", _vllm_mlx),
)
