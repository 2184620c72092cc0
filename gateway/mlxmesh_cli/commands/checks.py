"""The checks of `mlxmesh doctor`: each reports a finding and, for a problem, its fix."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_launcher.record import read_record

MIN_DISK_BYTES = 2 << 30
MIN_MEMORY_BYTES = 2 << 30
GATEWAY_PORT, HTTP_PORT = 50051, 8051
PACKAGES = ("mlxmesh", "mlx", "mlx-lm", "grpcio", "protobuf", "transformers")


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    finding: str
    fix: str = ""


def run_checks(data_dir: Path) -> list[Check]:
    """Runs all checks, in the order in which to fix problems."""
    checks: tuple[Callable[[], Check], ...] = (
        check_python,
        check_versions,
        check_device,
        check_blas,
        check_memory,
        lambda: check_disk(data_dir),
        lambda: check_port(GATEWAY_PORT, data_dir),
        lambda: check_http_port(HTTP_PORT, data_dir),
    )
    return [check() for check in checks]


def check_python() -> Check:
    """Python 3.11 or newer."""
    ok = sys.version_info >= (3, 11)
    return Check("python", ok, platform.python_version(), "install Python 3.11 or newer")


def check_versions() -> Check:
    """Every package that a whole mesh needs is installed."""
    found: dict[str, str] = {}
    missing: list[str] = []
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    finding = ", ".join(f"{name} {version}" for name, version in found.items())
    if missing:
        finding += f"; missing: {', '.join(missing)}"
    return Check("versions", not missing, finding, 'pip install "mlxmesh[all]"')


def check_device() -> Check:
    """The device that engines will use."""
    from mlxmesh_runtime.device import find_device

    device = asyncio.run(find_device())
    return Check("device", True, f"{device.kind} ({device.name}), {device.cores} cores")


def check_blas() -> Check:
    """On a Linux CPU, OpenBLAS for float32 products: many times the speed of the built-in one."""
    from mlxmesh_engine.forward.blas import open_blas

    opened = open_blas()
    finding = f"{opened.blas} ({opened.library})" if opened.library else opened.blas
    if opened.library and opened.problem:
        finding += f", because the bundled library is not available: {opened.problem}"
    return Check("blas", opened.blas != "reference", finding, opened.fix)


def check_memory() -> Check:
    """Enough free memory for a small model."""
    import psutil

    available = psutil.virtual_memory().available
    return Check(
        "memory",
        available >= MIN_MEMORY_BYTES,
        f"{available / 2**30:.1f} GiB free",
        "stop other programs, or unload models with `mlxmesh unload`",
    )


def check_disk(data_dir: Path) -> Check:
    """Enough free disk for a small model."""
    existing = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return Check(
        "disk",
        free >= MIN_DISK_BYTES,
        f"{free / 2**30:.1f} GiB free at {existing}",
        "free some space, or choose another --data-dir",
    )


def check_port(port: int, data_dir: Path) -> Check:
    """The gateway's port is free, or this data directory's own mesh serves."""
    record = read_record(data_dir)
    return _port("port", port, data_dir, record.gateway if record else "", "--grpc-port")


def check_http_port(port: int, data_dir: Path) -> Check:
    """The same for the HTTP port."""
    record = read_record(data_dir)
    return _port("http port", port, data_dir, record.http if record else "", "--http-port")


def _port(name: str, port: int, data_dir: Path, served: str, option: str) -> Check:
    if served:
        return Check(name, True, f"{served} serves this mesh")
    if any(address.endswith(f":{port}") for address in _registered(data_dir)):
        return Check(name, True, f"{port} serves this mesh")
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", port)) == 0
    finding = f"{port} is taken by another program" if taken else f"{port} is free"
    fix = f"`mlxmesh up` uses the next free port, or the one of {option}"
    return Check(name, not taken, finding, fix)


def _registered(data_dir: Path) -> list[str]:
    """Addresses of services of this mesh that were started one by one."""
    from mlxmesh_cli.mesh.location import registered_addresses
    from mlxmesh_shared.errors import MeshError
    from mlxmesh_shared.settings import SettingsError

    try:
        return registered_addresses(data_dir)
    except (MeshError, SettingsError):
        return []
