"""The mesh without a screen: what `mlxmesh up --detach` leaves running."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from mlxmesh_launcher.forked import fork_services
from mlxmesh_launcher.mesh import Mesh, MeshOptions, start_unless_stopped
from mlxmesh_launcher.models import parse_source
from mlxmesh_shared.forked import ForkedProcess
from mlxmesh_shared.process import run_service, wait_for_stop
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.settings import MeshSettings, load_settings
from mlxmesh_shared.telemetry import setup_logging

_log = logging.getLogger(__name__)


def main() -> int:
    """Run the mesh until SIGTERM; returns the exit code."""
    arguments = _parse(sys.argv[1:])
    setup_logging(service="launcher", instance_id="launcher", level="INFO", json=False)
    forked = fork_services()
    return run_service(lambda: serve(arguments, forked))


async def serve(arguments: argparse.Namespace, forked: Mapping[str, ForkedProcess]) -> None:
    """Start, wait, stop; a stop that is asked for during the start is heard as well."""
    options = _options(arguments)
    registry = open_registry(load_settings(MeshSettings, ["--data-dir", str(options.data_dir)]))
    mesh = Mesh(options, registry, forked)
    stop = asyncio.create_task(wait_for_stop())
    try:
        if await start_unless_stopped(mesh, stop, _log.info):
            _log.info("serving on %s", mesh.gateway)
            await stop
    finally:
        stop.cancel()
        await mesh.stop(_log.info)
        await registry.close()


def _options(arguments: argparse.Namespace) -> MeshOptions:
    return MeshOptions(
        data_dir=arguments.data_dir,
        grpc_port=arguments.grpc_port,
        replicas=arguments.replicas,
        models=tuple(parse_source(text) for text in arguments.model),
    )


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mlxmesh_launcher", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--grpc-port", type=int, default=MeshOptions.grpc_port)
    parser.add_argument("--replicas", type=int, default=None)
    parser.add_argument("--model", action="append", default=[], metavar="NAME|DIRECTORY|HUB_ID")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
