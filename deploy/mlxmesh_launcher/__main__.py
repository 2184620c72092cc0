"""The mesh without a screen: what `mlxmesh up --detach` leaves running."""

from __future__ import annotations

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import exit_on_interrupt

    exit_on_interrupt()  # the imports below take a while

import argparse
import asyncio
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from mlxmesh_launcher.forked import fork_services
from mlxmesh_launcher.hosts.state import services_here
from mlxmesh_launcher.lock import DirectoryLock
from mlxmesh_launcher.options import MeshOptions, parse_source
from mlxmesh_shared.process.forked import ForkedProcess
from mlxmesh_shared.process.startup import run_service, wait_for_stop
from mlxmesh_shared.settings import MeshSettings, load_settings
from mlxmesh_shared.telemetry import setup_logging

_log = logging.getLogger(__name__)


def main() -> int:
    """Run the mesh until SIGTERM; returns the exit code."""
    arguments, flags = _parse(sys.argv[1:])
    setup_logging(service="launcher", instance_id="launcher", level="INFO", json=False)
    forked = fork_services(services_here(arguments.data_dir))
    return run_service(lambda: serve(arguments, flags, forked))


async def serve(
    arguments: argparse.Namespace, flags: list[str], forked: Mapping[str, ForkedProcess]
) -> None:
    """Starts the mesh, waits, and stops it; a signal during the start stops it too."""
    # Not at the top: the services, which do not need it, are forked before.
    from mlxmesh_launcher.mesh import Mesh, open_mesh_registry, start_unless_stopped

    settings = load_settings(MeshSettings, ["--data-dir", str(arguments.data_dir), *flags])
    options = _options(arguments, flags, settings)
    registry = open_mesh_registry(settings)
    lock = None
    if arguments.lock_fd is not None:
        lock = DirectoryLock(options.data_dir, arguments.lock_fd)
    mesh = Mesh(options, registry, forked, lock)
    stop = asyncio.create_task(wait_for_stop(mesh.leaving))
    try:
        if await start_unless_stopped(mesh, stop, _log.info):
            _log.info("serving on %s", mesh.gateway or "this host, without a gateway")
            await stop
    finally:
        stop.cancel()
        await mesh.stop(_log.info)
        await registry.close()


def _options(
    arguments: argparse.Namespace, flags: list[str], settings: MeshSettings
) -> MeshOptions:
    return MeshOptions(
        data_dir=arguments.data_dir,
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        replicas=arguments.replicas,
        models=tuple(parse_source(text) for text in arguments.model),
        flags=tuple(flags),
        tls=arguments.tls,
        tls_dir=settings.tls_dir,
    )


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What is the launcher's own; the rest are settings, for every service."""
    parser = argparse.ArgumentParser(
        prog="mlxmesh_launcher", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--grpc-port", type=int, default=None)
    parser.add_argument("--http-port", type=int, default=None)
    parser.add_argument("--lock-fd", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--replicas", type=int, default=None)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--model", action="append", default=[], metavar="NAME|DIRECTORY|REPO_ID")
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    sys.exit(main())
