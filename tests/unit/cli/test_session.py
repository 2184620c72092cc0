"""Where a command finds its mesh, and how errors reach the reader."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from mlxmesh_cli.session import DEFAULT_ADDRESS, gateway_address, resolve_data_dir, run
from mlxmesh_launcher.record import RecordFile
from mlxmesh_shared.errors import InvalidArgument, MeshError, ModelNotFound, ServiceUnavailable


def test_the_address_given_wins(tmp_path: Path) -> None:
    assert gateway_address("host:1", tmp_path) == "host:1"


def test_the_running_mesh_of_the_data_directory_is_next(tmp_path: Path) -> None:
    record = RecordFile(tmp_path)
    record.claim()
    record.publish("127.0.0.1:4242", control="127.0.0.1:4243")
    assert gateway_address(None, tmp_path) == "127.0.0.1:4242"


def test_a_data_directory_without_a_mesh_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        gateway_address(None, tmp_path)
    assert "mlxmesh up" in capsys.readouterr().err


def test_else_the_default_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path))
    assert resolve_data_dir(None) == tmp_path
    assert gateway_address(None, None) == DEFAULT_ADDRESS


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InvalidArgument("must be at most 1", field="top_p"), "error: top_p: must be at most 1"),
        (ModelNotFound("no model 'x'"), "error: no model 'x'"),
        (ServiceUnavailable("connection refused"), "error: connection refused; is the mesh up?"),
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
