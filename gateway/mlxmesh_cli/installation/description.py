"""Makes the description of a service from what was asked for and from this host."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlxmesh_cli
from mlxmesh_cli.installation.host import (
    Runner,
    can_sandbox_users,
    has_nvidia_gpu,
    systemd_version,
)
from mlxmesh_cli.installation.service import WHOLE_MESH, Scope, Service
from mlxmesh_cli.installation.systemd import STATE_DIR
from mlxmesh_cli.mesh.location import resolve_data_dir
from mlxmesh_launcher.service_settings import STOP_MARGIN_S, ServiceSettings
from mlxmesh_shared.errors import InvalidArgument

SERVICES = (
    WHOLE_MESH,
    *("gateway", "generation", "model", "access", "jobs", "worker", "tools", "runtime"),
)


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    what: str = WHOLE_MESH
    scope: Scope = Scope.USER
    data_dir: Path | None = None
    account: str = ""
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def describe(wanted: Wanted, runner: Runner, platform: str = sys.platform) -> Service:
    """The service on this host. Raises: InvalidArgument, SettingsError."""
    data_dir = _data_dir(wanted, platform)
    is_system = wanted.scope == Scope.SYSTEM
    environment = dict(wanted.environment)
    if is_system and platform != "darwin":
        # An account that systemd makes has no home, and the home of another is read-only.
        environment = {"HOME": str(data_dir)} | environment
    service = Service(
        what=wanted.what,
        scope=wanted.scope,
        python=Path(sys.executable),
        data_dir=data_dir,
        arguments=wanted.arguments,
        environment=environment,
        stop_timeout_s=_stop_timeout_s(wanted.what, data_dir),
        account=wanted.account,
        reads=(Path(sys.executable).resolve(), Path(mlxmesh_cli.__file__)),
        has_gpu=has_nvidia_gpu(),
        can_sandbox=can_sandbox_users(),
        systemd_version=systemd_version(runner),
    )
    if is_system and not wanted.account and platform != "darwin":
        _check_readable(service)
    return service


def _data_dir(wanted: Wanted, platform: str) -> Path:
    if wanted.scope == Scope.USER:
        return resolve_data_dir(wanted.data_dir)
    if platform == "darwin":
        if not wanted.account or wanted.data_dir is None:
            raise InvalidArgument(
                "a daemon of macOS needs --run-as USER and --data-dir DIRECTORY: the account that"
                " it runs as, and a directory that belongs to it",
                field="run_as",
            )
        return wanted.data_dir.expanduser().resolve()
    data_dir = STATE_DIR if wanted.data_dir is None else wanted.data_dir.expanduser().resolve()
    if data_dir != STATE_DIR and not wanted.account:
        raise InvalidArgument(
            f"with --data-dir {data_dir}, say by --run-as whose directory it is; without --run-as"
            f" systemd makes an account, and {STATE_DIR} for it",
            field="data_dir",
        )
    return data_dir


def _stop_timeout_s(what: str, data_dir: Path) -> float:
    timeouts_s = ServiceSettings(["--data-dir", str(data_dir)]).stop_timeouts_s()
    own_s = sum(timeouts_s.values()) if what == WHOLE_MESH else timeouts_s[what]
    return own_s + STOP_MARGIN_S


def _check_readable(service: Service) -> None:
    """The account that systemd makes must be able to run what is installed."""
    for path in (service.python, *service.reads):
        closed = [parent for parent in path.parents if not parent.stat().st_mode & 0o001]
        if closed:
            raise InvalidArgument(
                f"other accounts cannot enter {closed[-1]}, where {path} is; install mlxmesh where"
                " all may read it, such as in a virtual environment in /opt/mlxmesh, or name an"
                " account that may by --run-as USER",
                field="run_as",
            )
