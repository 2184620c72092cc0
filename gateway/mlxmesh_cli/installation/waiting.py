"""Waits until an installed service serves."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mlxmesh_cli.installation.installer import Installer
from mlxmesh_cli.installation.service import WHOLE_MESH, Service
from mlxmesh_cli.mesh.console_address import console_address
from mlxmesh_launcher.record import read_record
from mlxmesh_shared.errors import ServiceUnavailable

POLL_S = 0.2
SETTLE_S = 2.0
"""A service that is not a whole mesh counts as started when it has run for so long."""


@dataclass(frozen=True)
class Serving:
    """How a mesh is reached; empty for one of its services."""

    gateway: str = ""
    http: str = ""
    console: str = ""


def until_serving(
    installer: Installer, service: Service, *, timeout_s: float, logs: str
) -> Serving:
    """Returns once it serves. Raises: ServiceUnavailable, with where to look."""
    start_s = time.monotonic()
    while time.monotonic() - start_s < timeout_s:
        if service.what == WHOLE_MESH:
            record = read_record(service.data_dir)
            if record is not None and record.gateway:
                return Serving(record.gateway, record.http, console_address(record) or "")
        elif time.monotonic() - start_s > SETTLE_S:
            return Serving()
        if not installer.is_running():
            raise ServiceUnavailable(f"{service.name} did not start; see `{logs}`")
        time.sleep(POLL_S)
    raise ServiceUnavailable(
        f"{service.name} runs but does not serve after {timeout_s:.0f} s; see `{logs}`"
    )
