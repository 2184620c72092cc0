"""The mesh without a screen: what `mlxmesh up --detach` leaves running."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from mlxmesh_launcher.mesh import Mesh, MeshOptions
from mlxmesh_launcher.models import parse_source
from mlxmesh_shared.process import run_service, wait_for_stop
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.settings import MeshSettings, load_settings
from mlxmesh_shared.telemetry import setup_logging

_log = logging.getLogger(__name__)


def main() -> int:
    """Run the mesh until SIGTERM; returns the exit code."""
    options = _parse(sys.argv[1:])
    setup_logging(service="launcher", instance_id="launcher", level="INFO", json=False)

    async def run() -> None:
        registry = open_registry(load_settings(MeshSettings, _data_dir_flag(options)))
        mesh = Mesh(options, registry)
        try:
            await mesh.start(_log.info)
            _log.info("serving on %s", mesh.gateway)
            await wait_for_stop()
        finally:
            await mesh.stop(_log.info)
            await registry.close()

    return run_service(run)


def _data_dir_flag(options: MeshOptions) -> list[str]:
    return ["--data-dir", str(options.data_dir)]


def _parse(argv: list[str]) -> MeshOptions:
    parser = argparse.ArgumentParser(prog="mlxmesh_launcher", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--grpc-port", type=int, default=MeshOptions.grpc_port)
    parser.add_argument("--replicas", type=int, default=MeshOptions.replicas)
    parser.add_argument("--model", action="append", default=[], metavar="NAME|DIRECTORY|HUB_ID")
    args = parser.parse_args(argv)
    return MeshOptions(
        data_dir=args.data_dir,
        grpc_port=args.grpc_port,
        replicas=args.replicas,
        models=tuple(parse_source(text) for text in args.model),
    )


if __name__ == "__main__":
    sys.exit(main())
