"""Where a command finds its mesh, and how errors reach the reader."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mlxmesh_cli.commands.app import app
from mlxmesh_cli.commands.failures import NO_MESH
from mlxmesh_cli.commands.session import (
    DEFAULT_ADDRESS,
    TLS_VARIABLES,
    credential_file,
    gateway_address,
    run,
    tls_of,
)
from mlxmesh_cli.mesh.credentials import CredentialFile, StoredKey
from mlxmesh_cli.mesh.location import resolve_data_dir, with_data_dir
from mlxmesh_launcher.record import RecordFile
from mlxmesh_shared.errors import InvalidArgument, MeshError, ModelNotFound, ServiceUnavailable
from mlxmesh_shared.registry import local_instance, open_registry
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.tls import CertificateFiles


def test_the_address_given_wins(tmp_path: Path) -> None:
    assert gateway_address("host:1", tmp_path) == "host:1"


def test_the_running_mesh_of_the_data_directory_is_next(tmp_path: Path) -> None:
    record = RecordFile(tmp_path)
    record.claim()
    record.publish("127.0.0.1:4242", control="127.0.0.1:4243")
    assert gateway_address(None, tmp_path) == "127.0.0.1:4242"


async def test_services_that_were_started_by_hand_are_found_in_their_registry(
    tmp_path: Path,
) -> None:
    settings = MeshSettings(data_dir=tmp_path)
    registry = open_registry(settings)
    await registry.register(local_instance(settings, "gateway", "gateway-1", "[::1]:4242"))

    # From within an event loop, as commands ask.
    assert gateway_address(None, tmp_path) == "[::1]:4242"

    await registry.close()


def test_a_data_directory_without_a_mesh_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        gateway_address(None, tmp_path)
    assert "mlxmesh up" in capsys.readouterr().err


def test_the_variable_names_a_data_directory_like_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CredentialFile.of_data_dir(tmp_path).write(StoredKey("ada", "k_1", "mlx_secret"))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("MLXMESH_ADDRESS", raising=False)
    for command in (["whoami"], ["models"], ["logout"], ["login", "ada", "--password-file", "-"]):
        result = CliRunner().invoke(app, command, input="correct horse battery")
        assert result.exit_code == NO_MESH, command
        assert f"no mesh runs in {tmp_path}" in result.stderr
    assert CredentialFile.of_data_dir(tmp_path).read() is not None


def test_else_the_default_port_without_the_credentials_of_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MLXMESH_DATA_DIR", "MLXMESH_ADDRESS", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    own = CredentialFile.of_data_dir(tmp_path / ".mlxmesh")
    own.write(StoredKey("ada", "k_1", "mlx_secret"))
    assert resolve_data_dir(None) == tmp_path / ".mlxmesh"
    assert gateway_address(None, None) == DEFAULT_ADDRESS
    assert credential_file(None, None).read() is None

    record = RecordFile(tmp_path / ".mlxmesh")
    record.claim()
    record.publish("127.0.0.1:4242", control="")
    assert gateway_address(None, None) == "127.0.0.1:4242"
    assert credential_file(None, None).path == own.path


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InvalidArgument("must be at most 1", field="top_p"), "error: top_p: must be at most 1"),
        (InvalidArgument("top_p must be up to 1", field="top_p"), "error: top_p must be up to 1"),
        (ModelNotFound("no model 'x'"), "error: no model 'x'"),
        (ServiceUnavailable("no runtime is up"), "error: no runtime is up\n"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    error: MeshError, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        run(work())
    assert caught.value.exit_code == 1
    text = capsys.readouterr().err
    assert text.startswith(line)
    assert text.count("\n") == 1


def test_a_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    async def work() -> None:
        (tmp_path / "file" / "logs").mkdir()

    with pytest.raises(typer.Exit) as caught:
        run(work())
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/file/logs: Not a directory\n"


def test_a_command_is_named_with_the_directory_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert with_data_dir("down", tmp_path) == f"mlxmesh down --data-dir {tmp_path}"
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path))
    assert with_data_dir("down", tmp_path) == "mlxmesh down"


@pytest.mark.parametrize(
    "address", ["nohost", ":50051", "host:port", "host:", "http://localhost:8051"]
)
def test_an_address_needs_host_and_port(address: str) -> None:
    result = CliRunner().invoke(app, ["models", "--address", address])
    assert result.exit_code == 2
    assert "host:port" in result.stderr


def test_the_owner_of_a_mesh_with_tls_is_its_admin(tmp_path: Path) -> None:
    record = RecordFile(tmp_path)
    record.claim()
    record.publish("127.0.0.1:4242", control="", tls_dir=tmp_path / "tls")
    assert tls_of(tmp_path) == CertificateFiles.of_role(tmp_path / "tls", "admin")
    # Of another gateway this record says nothing.
    assert tls_of(tmp_path, "elsewhere:1") is None


def test_a_mesh_without_tls_is_reached_in_the_clear(tmp_path: Path) -> None:
    record = RecordFile(tmp_path)
    record.claim()
    record.publish("127.0.0.1:4242", control="")
    assert tls_of(tmp_path) is None


def test_settings_name_the_certificates_of_a_mesh_that_no_launcher_started(tmp_path: Path) -> None:
    (tmp_path / "mlxmesh.toml").write_text('[mesh]\ntls_dir = "/etc/mlxmesh/tls"\n')
    assert tls_of(tmp_path) == CertificateFiles.of_role(Path("/etc/mlxmesh/tls"), "admin")


def test_certificates_that_are_given_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, file in zip(TLS_VARIABLES, ("ca", "cert", "key"), strict=True):
        monkeypatch.setenv(name, f"/given/{file}")
    given = CertificateFiles(Path("/given/ca"), Path("/given/cert"), Path("/given/key"))
    assert tls_of(tmp_path) == given


@pytest.mark.parametrize(
    ("names", "says"),
    [(["MLXMESH_CERT"], "need --ca"), (["MLXMESH_CA", "MLXMESH_KEY"], "must be given together")],
)
def test_half_of_them_is_an_error(
    names: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in names:
        monkeypatch.setenv(name, "/given")
    with pytest.raises(typer.Exit):
        tls_of(tmp_path)
    assert says in capsys.readouterr().err
