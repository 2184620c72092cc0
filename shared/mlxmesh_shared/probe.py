"""Tells by its exit code whether a process serves: `python -m mlxmesh_shared.probe HOST:PORT`.

For health checks of containers and schedulers, which can run a command. It needs no extra.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from mlxmesh_shared.rpc.health import PROBE_TIMEOUT_S, health
from mlxmesh_shared.tls import CertificateFiles, CertificateSource


def main() -> int:
    """0 if the process reports SERVING, 1 with one line on stderr if not, 2 for wrong usage."""
    options = _parser().parse_args()
    found = asyncio.run(_health(options.address, options.tls_dir, options.timeout))
    if found == "serving":
        return 0
    sys.stderr.write(f"{options.address}: {found}\n")
    return 1


async def _health(address: str, tls_dir: Path | None, timeout_s: float) -> str:
    # Every role may ask for health.
    files = CertificateFiles.of_role(tls_dir, "client") if tls_dir is not None else None
    certificates = CertificateSource(files) if files is not None else None
    return await health(address, certificates=certificates, timeout_s=timeout_s)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mlxmesh_shared.probe",
        description="Asks a process of the mesh whether it serves, by gRPC's health service.",
    )
    parser.add_argument("address", help="host:port of the process")
    seconds = "seconds to wait (default %(default)s)"
    parser.add_argument("--timeout", type=float, default=PROBE_TIMEOUT_S, help=seconds)
    parser.add_argument(
        "--tls-dir",
        type=Path,
        help="with TLS: a directory with ca.crt, client.crt and client.key; the process must show a"
        " certificate for the host of the address",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
