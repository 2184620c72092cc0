"""The wheel holds everything that runs, and nothing else."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]


CONSOLE = "mlxmesh_gateway/console/static/"


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names inside a wheel built from this checkout, without network and with a small console."""
    console = tmp_path_factory.mktemp("console")
    (console / "index.html").touch()
    (console / "_app").mkdir()
    (console / "_app" / "start.js").touch()
    folder = tmp_path_factory.mktemp("wheel")
    built = _build_wheel(folder, console=console)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("mlxmesh-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _build_wheel(folder: Path, *, console: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    environment = {**os.environ, "MLXMESH_CONSOLE_BUILD": str(console)}
    return subprocess.run(
        [*command, str(ROOT)], capture_output=True, text=True, check=False, env=environment
    )


def _source_packages() -> dict[str, Path]:
    """Import name to folder, of every package of this checkout."""
    parents = [ROOT / parent for parent in BUILD["dev-mode-dirs"]]
    found = [path.parent for parent in parents for path in parent.glob("*/__init__.py")]
    return {folder.name: folder for folder in found}


def test_the_list_of_packages_is_complete():
    listed = {Path(package).name for package in BUILD["targets"]["wheel"]["packages"]}
    assert listed == set(_source_packages())


@pytest.mark.parametrize("package", sorted(_source_packages()))
def test_every_file_of_a_package_is_inside(wheel_files: set[str], package: str):
    folder = _source_packages()[package]
    files = [path for path in folder.rglob("*") if path.is_file()]
    wanted = {
        path.relative_to(folder.parent).as_posix()
        for path in files
        if "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    wanted = {name for name in wanted if not name.startswith(CONSOLE)}
    assert f"{package}/py.typed" in wanted
    assert wanted - wheel_files == set()


def test_the_console_is_inside(wheel_files: set[str]):
    inside = {name for name in wheel_files if name.startswith(CONSOLE)}
    assert inside == {f"{CONSOLE}index.html", f"{CONSOLE}_app/start.js"}


def test_there_is_no_wheel_without_a_console(tmp_path: Path):
    built = _build_wheel(tmp_path, console=tmp_path)
    assert built.returncode != 0
    assert "run `make console`" in built.stdout + built.stderr


def test_each_contract_comes_with_its_stubs(wheel_files: set[str]):
    contracts = sorted((ROOT / "protos" / "mlxmesh").rglob("*.proto"))
    assert contracts
    for contract in contracts:
        base = contract.relative_to(ROOT / "protos").with_suffix("").as_posix()
        stubs = [f"{base}{end}" for end in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")]
        assert {f"{base}.proto", *stubs} <= wheel_files
    assert "mlxmesh/descriptors.binpb" in wheel_files


def test_generated_contracts_are_current():
    for contract in sorted((ROOT / "protos" / "mlxmesh").rglob("*.proto")):
        copy = ROOT / "protos" / "gen" / contract.relative_to(ROOT / "protos")
        assert copy.read_bytes() == contract.read_bytes(), f"run `make protos`: {contract.name}"


@pytest.mark.parametrize("package", ["mlxmesh_access", "mlxmesh_model"])
def test_database_migrations_are_inside(wheel_files: set[str], package: str):
    assert any(
        name.startswith(f"{package}/") and "/versions/" in name and name.endswith(".py")
        for name in wheel_files
    )


@pytest.mark.parametrize("model", ["pocket", "pocket-mini"])
def test_the_bundled_models_are_inside(wheel_files: set[str], model: str):
    folder = ROOT / "deploy" / "demo-model" / model
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert {f"mlxmesh_launcher/models/{model}/{name}" for name in names} <= wheel_files


@pytest.mark.parametrize("manager", ["systemd", "launchd"])
def test_the_templates_of_services_are_inside(wheel_files: set[str], manager: str):
    names = {path.name for path in (ROOT / "deploy" / manager).iterdir()}
    assert names
    folder = f"mlxmesh_cli/installation/templates/{manager}"
    assert {f"{folder}/{name}" for name in names} <= wheel_files


def test_nothing_else_is_inside(wheel_files: set[str]):
    allowed = {*_source_packages(), f"mlxmesh-{_version()}.dist-info"}
    assert {name.split("/")[0] for name in wheel_files} == allowed
    assert not [name for name in wheel_files if "__pycache__" in name or "/tests/" in name]


def _version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
