"""The imports of all packages, as import-linter sees them."""

import tomllib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[3]
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
PACKAGES: list[str] = TOOL["importlinter"]["root_packages"]


def import_graph() -> grimp.ImportGraph:
    first, *others = PACKAGES
    return grimp.build_graph(first, *others, cache_dir=None)


def cycle(imports: Mapping[str, set[str]]) -> list[str]:
    """A cycle of imports, its first node again at the end; empty when there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        # From the imported to the importer.
        return list(reversed(error.args[1]))
    return []


def module_imports(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def part_imports(graph: grimp.ImportGraph, package: str) -> dict[str, set[str]]:
    """Imports between the parts of a package: its folders, and its modules outside of folders.

    A package's own `__init__` re-exports its parts, and is none of them.
    """
    parts: dict[str, set[str]] = {child: set() for child in graph.find_children(package)}
    for part in parts:
        for module in {part, *graph.find_descendants(part)}:
            for imported in graph.find_modules_directly_imported_by(module):
                other = _part(imported, package)
                if other in parts and other != part:
                    parts[part].add(other)
    return parts


def _part(module: str, package: str) -> str:
    if not module.startswith(f"{package}."):
        return ""
    return ".".join(module.split(".")[: package.count(".") + 2])


def packages_with_parts(graph: grimp.ImportGraph) -> Iterator[str]:
    return (module for module in sorted(graph.modules) if graph.find_children(module))


def wire_imports(graph: grimp.ImportGraph, module: str) -> set[str]:
    """The generated modules of the contracts that a module imports."""
    imported = graph.find_modules_directly_imported_by(module)
    return {name for name in imported if name.startswith("mlxmesh.") and "_pb2" in name}
