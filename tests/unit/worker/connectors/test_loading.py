"""Connectors are found by entry points, also those of other packages."""

import importlib
import re
from pathlib import Path

import pytest

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_worker.connectors.loading import connector_names, load_connectors
from mlxmesh_worker.connectors.port import Target

SOURCE = """
class Other:
    name = {name!r}
    operations = {operations!r}

    def __init__(self, target):
        self.target = target
"""


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    entry: str = "other_http",
    name: str = "other_http",
    operations: tuple[str, ...] = ("draw",),
    package: str = "other_package",
    source: str = SOURCE,
) -> None:
    """Installs a package as pip does: a module and its dist-info."""
    (folder / f"{package}.py").write_text(source.format(name=name, operations=operations))
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mlxmesh.connectors]\n{entry} = {package}:Other\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


def test_all_and_some() -> None:
    assert list(load_connectors()) == list(connector_names())
    assert list(load_connectors(["simulation_http"])) == ["simulation_http"]


def test_a_wrong_name_says_which_exist() -> None:
    with pytest.raises(InvalidArgument, match="no connector comfyui_ws") as raised:
        load_connectors(["comfyui_ws"])
    assert all(name in raised.value.message for name in connector_names())
    assert raised.value.field == "connectors"


def test_a_connector_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, package="other_package_a")
    assert "other_http" in connector_names()
    kind = load_connectors()["other_http"]
    target = Target(name="there", address="host:1")
    assert vars(kind(target)) == {"target": target}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"entry": "other", "name": "other"}, "WHAT_PROTOCOL"),
        ({"entry": "other_ftp", "name": "other_ftp"}, "WHAT_PROTOCOL"),
        ({"entry": "Other_http", "name": "Other_http"}, "WHAT_PROTOCOL"),
        ({"entry": f"{'o' * 64}_http"}, "WHAT_PROTOCOL"),
        ({"name": "else_http"}, "must have the name other_http"),
        ({"operations": ()}, "list its operations"),
        ({"operations": ("Draw it",)}, "list its operations"),
        ({"source": "raise OSError('no driver')"}, "OSError: no driver"),
        ({"source": "Another = 1"}, "cannot be loaded"),
    ],
)
def test_one_that_breaks_the_rules(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, str],
    said: str,
    request: pytest.FixtureRequest,
) -> None:
    package = "other_" + re.sub(r"\W", "_", request.node.name).lower()
    install(tmp_path, monkeypatch, package=package, **wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidArgument, match=said):
        load_connectors()


def test_two_packages_with_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, entry="simulation_http", package="other_package_b")
    with pytest.raises(InvalidArgument, match="two packages have a connector simulation_http"):
        load_connectors()
