"""The layering contracts cover every package; no import cycles; wire types stay at the edges."""

from pathlib import Path

import grimp
import pytest

from tests.unit.repo.import_graph import (
    PACKAGES,
    TOOL,
    cycle,
    import_graph,
    module_imports,
    packages_with_parts,
    part_imports,
    wire_imports,
)
from tests.unit.repo.wire_types import ALLOWED, KNOWN

SERVICES = (
    "mlxmesh_access",
    "mlxmesh_engine",
    "mlxmesh_gateway",
    "mlxmesh_generation",
    "mlxmesh_jobs",
    "mlxmesh_model",
    "mlxmesh_runtime",
    "mlxmesh_shared",
    "mlxmesh_tools",
    "mlxmesh_worker",
)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return import_graph()


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


def test_the_graph_has_every_package(graph: grimp.ImportGraph) -> None:
    assert set(PACKAGES) <= graph.modules
    assert len(graph.modules) > 200


def test_no_modules_import_each_other_in_a_cycle(graph: grimp.ImportGraph) -> None:
    assert cycle(module_imports(graph)) == []


def test_no_folders_of_a_package_import_each_other_in_a_cycle(graph: grimp.ImportGraph) -> None:
    packages = list(packages_with_parts(graph))
    assert {"mlxmesh_shared", "mlxmesh_engine", "mlxmesh_gateway.otlp"} <= set(packages)
    cycles = {package: cycle(part_imports(graph, package)) for package in packages}
    assert {package: found for package, found in cycles.items() if found} == {}


def test_cycles_are_found() -> None:
    graph = grimp.ImportGraph()
    for module in ("p", "p.a", "p.a.x", "p.a.y", "p.b", "p.b.z"):
        graph.add_module(module)
    graph.add_import(importer="p", imported="p.a.x")
    graph.add_import(importer="p.a.x", imported="p.b.z")
    assert cycle(part_imports(graph, "p")) == []
    graph.add_import(importer="p.b.z", imported="p.a.y")
    assert cycle(module_imports(graph)) == []
    assert set(cycle(part_imports(graph, "p"))) == {"p.a", "p.b"}
    graph.add_import(importer="p.a.y", imported="p.a.x")
    assert set(cycle(module_imports(graph))) == {"p.a.x", "p.a.y", "p.b.z"}


def test_wire_types_are_imported_by_converters_and_servicers_only(graph: grimp.ImportGraph) -> None:
    found = {
        module
        for module in graph.modules
        if module.startswith(SERVICES)
        and not module.endswith(("servicer", "handlers", ".__main__", ".assembly"))
        and not module.rpartition(".")[2].startswith("convert")
        and wire_imports(graph, module)
    }
    assert found - ALLOWED.keys() - KNOWN.keys() == set(), "import messages in convert.py only"
    assert (ALLOWED.keys() | KNOWN.keys()) - found == set(), "remove these: they import none"
    assert ALLOWED.keys() & KNOWN.keys() == set()
