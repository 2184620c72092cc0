"""The text of units."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_cli.installation.service import Scope, Service
from mlxmesh_cli.installation.systemd import STATE_DIR, Systemd, quoted

SYSTEM = Service("all", Scope.SYSTEM, Path("/opt/mlxmesh/bin/python"), STATE_DIR)
USER = Service("all", Scope.USER, Path("/home/ada/venv/bin/python"), Path("/home/ada/.mlxmesh"))


def unit(service: Service) -> dict[str, list[str]]:
    """The values of each key, in order."""
    text = Systemd(service.scope, Path("/home/ada/.config")).render(service).decode()
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_no_placeholder_is_left() -> None:
    for service in (SYSTEM, USER, replace(USER, can_sandbox=False), replace(SYSTEM, has_gpu=True)):
        text = Systemd(service.scope, Path("/x")).render(service).decode()
        assert "{" not in text
        assert "\n\n\n" not in text


def test_a_system_service_has_an_account_of_its_own_and_drains() -> None:
    found = unit(replace(SYSTEM, stop_timeout_s=215.2))
    assert found["DynamicUser"] == ["yes"]
    assert found["StateDirectory"] == ["mlxmesh"]
    assert found["KillMode"] == ["mixed"]
    assert found["TimeoutStopSec"] == ["215"]
    assert found["Restart"] == ["on-failure"]
    assert found["ProtectSystem"] == ["strict"]
    assert found["ProtectHome"] == ["yes"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["ExecStart"] == [
        "/opt/mlxmesh/bin/python -m mlxmesh_launcher --data-dir /var/lib/mlxmesh"
    ]


def test_an_account_that_exists_and_its_directory() -> None:
    home = Path("/home/mesh/data")
    found = unit(replace(SYSTEM, account="mesh", data_dir=home))
    assert found["User"] == ["mesh"]
    assert "DynamicUser" not in found
    assert "StateDirectory" not in found
    assert found["ReadWritePaths"] == ["/home/mesh/data"]
    assert found["ProtectHome"] == ["read-only"]


def test_one_service_of_a_mesh() -> None:
    found = unit(replace(SYSTEM, what="gateway"))
    assert found["ExecStart"] == [
        "/opt/mlxmesh/bin/python -m mlxmesh_gateway --data-dir /var/lib/mlxmesh"
    ]
    assert Systemd(Scope.SYSTEM, Path("/x")).path("mlxmesh-gateway") == Path(
        "/etc/systemd/system/mlxmesh-gateway.service"
    )


def test_a_gpu_may_be_used_and_nothing_else() -> None:
    found = unit(replace(SYSTEM, has_gpu=True))
    assert "PrivateDevices" not in found
    assert found["DevicePolicy"] == ["closed"]
    assert "char-nvidia-uvm rw" in found["DeviceAllow"]
    assert unit(SYSTEM)["PrivateDevices"] == ["yes"]


def test_services_of_a_user_have_a_sandbox_only_where_it_works() -> None:
    assert unit(USER)["PrivateUsers"] == ["yes"]
    without = unit(replace(USER, can_sandbox=False))
    assert "PrivateUsers" not in without
    assert "CapabilityBoundingSet" not in without
    assert without["NoNewPrivileges"] == ["yes"]
    assert found_logs(Scope.USER) == "journalctl --user --unit mlxmesh.service"
    assert found_logs(Scope.SYSTEM) == "journalctl --unit mlxmesh.service"


def found_logs(scope: Scope) -> str:
    return Systemd(scope, Path("/x")).logs("mlxmesh")


def test_pauses_grow_where_systemd_knows_how() -> None:
    assert "RestartSteps" not in unit(replace(SYSTEM, systemd_version=252))
    assert unit(replace(SYSTEM, systemd_version=254))["RestartSteps"] == ["6"]


def test_environment_and_words_are_literal() -> None:
    odd = 'a "b" $HOME 100% \\'
    found = unit(replace(USER, arguments=("--model", odd), environment={"A": odd}))
    assert found["Environment"] == ['"A=a \\"b\\" $HOME 100%% \\\\"']
    assert found["ExecStart"][0].endswith('--model "a \\"b\\" $$HOME 100%% \\\\"')


def test_a_line_break_would_be_another_setting() -> None:
    with pytest.raises(ValueError, match="line break"):
        unit(replace(USER, arguments=("x\nExecStartPre=/bin/evil",)))
    with pytest.raises(ValueError, match="line break"):
        unit(replace(USER, environment={"A": "x\nUser=root"}))


@given(st.text(st.characters(exclude_characters="\n\r\0", codec="utf-8"), min_size=1))
def test_quoting_is_undone_by_the_reader(word: str) -> None:
    """systemd unquotes like a shell, but for %% and $$; a word is one word."""
    written = quoted(word).replace("%%", "%")
    assert shlex.split(written, posix=True) == [word.replace("$", "$$")]
