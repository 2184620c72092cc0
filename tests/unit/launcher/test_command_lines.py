"""How the gateway is started, and what its owner hears about who may call it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxmesh_launcher.command_lines import CommandLines
from mlxmesh_launcher.options import MeshOptions
from mlxmesh_launcher.service_settings import who_may_call

REQUIRED = ["--authentication", "required"]


def lines(data_dir: Path, toml: str = "") -> CommandLines:
    (data_dir / "mlxmesh.toml").write_text(toml)
    commands = CommandLines(MeshOptions(data_dir=data_dir, grpc_port=0), None)
    commands.choose_addresses(lambda _: True)
    return commands


def test_a_gateway_decides_by_itself_until_there_are_users(tmp_path: Path) -> None:
    commands = lines(tmp_path)
    assert "--authentication" not in commands.of("gateway", takes_over=False)
    assert "open to everybody on this machine" in commands.who_may_call()

    # The same launcher restarts gateways after the first user was created.
    commands.has_users = True
    assert commands.of("gateway", takes_over=True)[-3:] == ["--take-over", *REQUIRED]
    assert "callers need a key or a session" in commands.who_may_call()
    assert "--authentication" not in commands.of("access", takes_over=False)


def test_the_command_for_the_first_user_names_the_data_directory_unless_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = lines(tmp_path).who_may_call()
    assert f"`mlxmesh users create NAME --admin --data-dir {tmp_path}`" in told
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path))
    assert "`mlxmesh users create NAME --admin`" in lines(tmp_path).who_may_call()


@pytest.mark.parametrize("setting", ["required", "off"])
def test_what_the_settings_say_about_authentication_is_not_overridden(
    tmp_path: Path, setting: str
) -> None:
    (tmp_path / "access.db").touch()
    commands = lines(tmp_path, f'[gateway]\nauthentication = "{setting}"\n')
    assert commands.has_users
    assert "--authentication" not in commands.of("gateway", takes_over=False)


@pytest.mark.parametrize(
    ("authentication", "has_users", "listen", "tls", "says"),
    [
        ("auto", False, "127.0.0.1:50051", False, "turns authentication on"),
        ("auto", False, "[::1]:50051", False, "turns authentication on"),
        ("auto", True, "127.0.0.1:50051", False, "need a key"),
        ("required", False, "127.0.0.1:50051", False, "need a key"),
        ("off", True, "127.0.0.1:50051", False, "open to everybody who reaches 127.0.0.1:50051"),
        ("off", False, "0.0.0.0:50051", False, "open to everybody who reaches 0.0.0.0:50051"),
        ("auto", False, "0.0.0.0:50051", False, "on this machine, and to nobody else"),
        ("auto", True, "0.0.0.0:50051", True, "or over HTTP a key"),
        ("auto", False, "0.0.0.0:50051", True, "need a certificate"),
    ],
)
def test_who_may_call(
    authentication: str, has_users: bool, listen: str, tls: bool, says: str
) -> None:
    told = who_may_call(authentication=authentication, has_users=has_users, listen=listen, tls=tls)
    assert says in told
