"""Installing, changing and removing a service, by systemd and by launchd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mlxmesh_cli.installation.installer import Installer
from mlxmesh_cli.installation.launchd import Launchd
from mlxmesh_cli.installation.service import Scope, Service
from mlxmesh_cli.installation.systemd import Systemd
from mlxmesh_shared.errors import IllegalState
from tests.fakes.service_commands import FakeLaunchctl, FakeSystemctl


@dataclass
class Rig:
    """A service manager, and what installs one service there."""

    service: Service
    installer: Installer
    commands: list[tuple[str, ...]]
    is_active: Callable[[], bool]

    def install(self, service: Service | None = None) -> bool:
        described = service or self.service
        return self.installer.install(self.installer.plan(described), described.data_dir)


def on_systemd(tmp_path: Path) -> Rig:
    host = Systemd(Scope.USER, tmp_path / ".config")
    runner = FakeSystemctl(tmp_path / ".config" / "systemd" / "user", user=True)
    installer = Installer(host, runner, "mlxmesh", sleep=lambda _: None)
    return Rig(service(tmp_path), installer, runner.commands, lambda: bool(runner.active))


def on_launchd(tmp_path: Path) -> Rig:
    host = Launchd(Scope.USER, tmp_path, 501)
    runner = FakeLaunchctl("gui/501")
    installer = Installer(host, runner, "mlxmesh", sleep=lambda _: None)
    return Rig(service(tmp_path), installer, runner.commands, lambda: bool(runner.loaded))


def service(tmp_path: Path) -> Service:
    return Service("all", Scope.USER, Path("/opt/venv/bin/python"), tmp_path / "data")


@pytest.fixture(params=[on_systemd, on_launchd])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    return request.param(tmp_path)


def test_it_is_written_and_started(rig: Rig) -> None:
    plan = rig.installer.plan(rig.service)
    assert plan.is_new
    assert rig.install()
    assert rig.is_active()
    assert rig.installer.path.read_bytes() == plan.content
    assert (rig.service.data_dir / "logs").is_dir()
    assert rig.service.data_dir.stat().st_mode & 0o777 == 0o700


def test_a_second_installation_changes_nothing(rig: Rig) -> None:
    rig.install()
    stamp = rig.installer.path.stat().st_mtime_ns
    del rig.commands[:]
    assert not rig.install()
    assert len(rig.commands) == 1, "only the question whether it runs"
    assert rig.installer.path.stat().st_mtime_ns == stamp


def test_a_stopped_one_is_started_again(rig: Rig) -> None:
    rig.install()
    rig.installer.uninstall()
    assert rig.install()
    assert rig.is_active()


def test_a_change_stops_before_it_starts(rig: Rig) -> None:
    rig.install()
    changed = replace(rig.service, arguments=("--replicas", "2"))
    plan = rig.installer.plan(changed)
    assert plan.changes
    assert not plan.is_new
    assert "--replicas" in plan.diff()
    assert rig.install(changed)
    assert rig.is_active()


def test_uninstalling_stops_it_and_keeps_the_data(rig: Rig) -> None:
    rig.install()
    assert rig.installer.uninstall()
    assert not rig.is_active()
    assert not rig.installer.path.exists()
    assert rig.service.data_dir.exists()
    assert not rig.installer.uninstall()


def test_the_commands_of_systemd(tmp_path: Path) -> None:
    rig = on_systemd(tmp_path)
    rig.install()
    rig.installer.uninstall()
    user = ("systemctl", "--user")
    assert [command for command in rig.commands if "is-active" not in command] == [
        (*user, "daemon-reload"),
        (*user, "enable", "--now", "mlxmesh.service"),
        (*user, "disable", "--now", "mlxmesh.service"),
        (*user, "daemon-reload"),
    ]
    assert (*user, "is-active", "--quiet", "mlxmesh.service") in rig.commands


def test_the_commands_of_launchd(tmp_path: Path) -> None:
    rig = on_launchd(tmp_path)
    rig.install()
    rig.installer.uninstall()
    target = "gui/501/org.mlxmesh.mlxmesh"
    assert [command[1:] for command in rig.commands if command[1] != "print"] == [
        ("enable", target),
        ("bootstrap", "gui/501", str(tmp_path / "Library/LaunchAgents/org.mlxmesh.mlxmesh.plist")),
        ("bootout", target),
    ]


def test_what_the_service_manager_says_is_in_the_error(tmp_path: Path) -> None:
    host = Systemd(Scope.SYSTEM, tmp_path, root=tmp_path)
    runner = FakeSystemctl(tmp_path / "etc/systemd/system", user=False)
    runner.fails = "enable"
    installer = Installer(host, runner, "mlxmesh")
    plan = installer.plan(replace(service(tmp_path), scope=Scope.SYSTEM))
    with pytest.raises(IllegalState, match=r"`systemctl enable .*` failed: Job for"):
        installer.install(plan)
