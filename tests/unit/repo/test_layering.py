"""The layering contracts cover every package, and the linter that holds them sees violations."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]


def _packages() -> set[str]:
    return {
        Path(package).name for package in TOOL["hatch"]["build"]["targets"]["wheel"]["packages"]
    }


def test_the_linter_knows_every_package():
    assert set(TOOL["importlinter"]["root_packages"]) == _packages()


def test_every_package_has_a_layer():
    contracts = [c for c in TOOL["importlinter"]["contracts"] if c["type"] == "layers"]
    (layers,) = (contract for contract in contracts if "containers" not in contract)
    named = {name.strip() for layer in layers["layers"] for name in layer.split("|")}
    assert named == _packages()


def test_pyright_is_strict_for_every_package_of_ours():
    folders = TOOL["hatch"]["build"]["targets"]["wheel"]["packages"]
    ours = [folder for folder in folders if not folder.startswith("protos/")]
    strict = TOOL["pyright"]["strict"]
    assert [folder for folder in ours if not any(folder.startswith(root) for root in strict)] == []
