"""The wheel holds everything that runs, and nothing else."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names inside a wheel built from this checkout, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    built = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("mlxmesh-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


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
    assert f"{package}/py.typed" in wanted
    assert wanted - wheel_files == set()


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


def test_nothing_else_is_inside(wheel_files: set[str]):
    allowed = {*_source_packages(), f"mlxmesh-{_version()}.dist-info"}
    assert {name.split("/")[0] for name in wheel_files} == allowed
    assert not [name for name in wheel_files if "__pycache__" in name or "/tests/" in name]


def _version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
