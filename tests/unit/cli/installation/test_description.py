"""What a host is asked to run, from the options and the host; and what may be deleted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlxmesh_cli.installation.description import Wanted, describe
from mlxmesh_cli.installation.host import can_sandbox_users, has_nvidia_gpu
from mlxmesh_cli.installation.purge import purge, purged_dir
from mlxmesh_cli.installation.service import Scope
from mlxmesh_cli.installation.systemd import STATE_DIR
from mlxmesh_launcher.record import RecordFile
from mlxmesh_shared.errors import IllegalState, InvalidArgument
from tests.fakes.service_commands import FakeSystemctl


@pytest.fixture
def systemctl(tmp_path: Path) -> FakeSystemctl:
    return FakeSystemctl(tmp_path, user=True)


def test_of_a_user(systemctl: FakeSystemctl, tmp_path: Path) -> None:
    wanted = Wanted(data_dir=tmp_path, arguments=("--replicas", "2"), environment={"A": "1"})
    found = describe(wanted, systemctl, "linux")
    assert found.command == (
        *(sys.executable, "-m", "mlxmesh_launcher", "--data-dir", str(tmp_path)),
        *("--replicas", "2"),
    )
    assert found.environment == {"A": "1"}
    assert found.stop_timeout_s > 100, "every service may drain"


def test_one_service_stops_sooner(systemctl: FakeSystemctl, tmp_path: Path) -> None:
    whole = describe(Wanted(data_dir=tmp_path), systemctl, "linux")
    gateway = describe(Wanted("gateway", data_dir=tmp_path), systemctl, "linux")
    assert gateway.stop_timeout_s < whole.stop_timeout_s


def test_of_the_host_with_an_account(systemctl: FakeSystemctl, tmp_path: Path) -> None:
    wanted = Wanted(scope=Scope.SYSTEM, account="mesh", data_dir=tmp_path)
    found = describe(wanted, systemctl, "linux")
    assert found.data_dir == tmp_path
    assert found.environment == {"HOME": str(tmp_path)}
    assert describe(Wanted(scope=Scope.SYSTEM, account="mesh"), systemctl, "linux").data_dir == (
        STATE_DIR
    )


def test_an_account_of_systemd_has_its_own_directory(
    systemctl: FakeSystemctl, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument, match="--run-as"):
        describe(Wanted(scope=Scope.SYSTEM, data_dir=tmp_path), systemctl, "linux")


def test_a_daemon_of_macos_needs_an_account_and_a_directory(
    systemctl: FakeSystemctl, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument, match="--run-as USER and --data-dir"):
        describe(Wanted(scope=Scope.SYSTEM), systemctl, "darwin")
    wanted = Wanted(scope=Scope.SYSTEM, account="mesh", data_dir=tmp_path)
    assert describe(wanted, systemctl, "darwin").data_dir == tmp_path


@pytest.mark.parametrize(
    ("files", "may"),
    [
        ({"user/max_user_namespaces": "63000"}, True),
        ({"user/max_user_namespaces": "0"}, False),
        ({}, False),
        ({"user/max_user_namespaces": "9", "kernel/unprivileged_userns_clone": "0"}, False),
        (
            {
                "user/max_user_namespaces": "9",
                "kernel/apparmor_restrict_unprivileged_userns": "1",
            },
            False,
        ),
    ],
)
def test_whether_users_may_have_namespaces(
    files: dict[str, str], may: bool, tmp_path: Path
) -> None:
    for name, value in files.items():
        file = tmp_path / "proc" / "sys" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    assert can_sandbox_users(tmp_path) is may
    assert not has_nvidia_gpu(tmp_path)


def test_only_the_directory_of_a_mesh_that_runs_no_more_is_deleted(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    assert not purge(data_dir)
    data_dir.mkdir()
    (data_dir / "thesis.txt").write_text("years of work")
    with pytest.raises(IllegalState, match="does not look like"):
        purge(data_dir)
    record = RecordFile(data_dir)
    record.claim()
    with pytest.raises(IllegalState, match="still runs"):
        purge(data_dir)
    record.release()
    assert purge(data_dir)
    assert not data_dir.exists()


def test_the_link_of_systemd_goes_too(tmp_path: Path) -> None:
    private = tmp_path / "private"
    record = RecordFile(private)
    private.mkdir()
    record.claim()
    record.release()
    link = tmp_path / "link"
    link.symlink_to(private)
    assert purge(link)
    assert list(tmp_path.iterdir()) == []
    assert purged_dir(Scope.USER, tmp_path) == tmp_path
