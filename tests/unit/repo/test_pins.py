"""Dependencies are pinned by hash, without addresses, for every extra."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Hosts that serve packages. Documentation may link to anything else.
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs|npmjs\.org|yarnpkg\.com|proxy\.golang\.org"
    r"|deb\.debian\.org|--(extra-)?index-url[ =]|--find-links[ =]"
)


def _pins(name: str) -> dict[str, list[str]]:
    """Distribution name to the versions it is pinned to, one for each environment marker."""
    text = (ROOT / "constraints" / name).read_text()
    pins: dict[str, list[str]] = {}
    for distribution, version in re.findall(r"^([a-z0-9][a-z0-9-]*)==([^ ]+)", text, re.MULTILINE):
        pins.setdefault(distribution, []).append(version)
    return pins


def _declared() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    requirements = [Requirement(line) for group in groups for line in group]
    return [requirement for requirement in requirements if requirement.name != PROJECT["name"]]


def test_every_declared_dependency_is_pinned_to_a_version_it_allows():
    pins = _pins("all.txt")
    for requirement in _declared():
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not pinned: run `make constraints`"
        assert all(version in requirement.specifier for version in versions), requirement


@pytest.mark.parametrize("name", ["all.txt", "bootstrap.txt"])
def test_every_pin_carries_hashes(name: str):
    blocks = re.split(r"^(?=[a-z0-9])", (ROOT / "constraints" / name).read_text(), flags=re.M)
    unhashed = [block for block in blocks if block.strip() and "--hash=sha256:" not in block]
    assert unhashed == []


def test_no_tracked_file_names_a_package_registry():
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    files = [ROOT / name.decode() for name in names if name]
    files = [path for path in files if path.is_file() and path != Path(__file__)]
    assert ROOT / "pyproject.toml" in files
    offenders = {
        str(path.relative_to(ROOT))
        for path in files
        if REGISTRIES.search(path.read_bytes().decode(errors="replace"))
    }
    assert offenders == set()
