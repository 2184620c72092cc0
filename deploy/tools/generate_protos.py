"""Generates typed Python stubs from protos/ into protos/gen.

Beside each contract: `*_pb2.py`, `*_pb2_grpc.py`, their `.pyi` (for grpc.aio), and the `.proto`
itself. `mlxmesh/descriptors.binpb` holds every descriptor with its comments, which the stubs drop
and which reflection shows.
"""

import os
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
OUTPUT = PROTOS / "gen"


def main() -> int:
    sources = sorted((PROTOS / "mlxmesh").rglob("*.proto"))
    with tempfile.TemporaryDirectory(prefix="mlxmesh-protos-") as scratch:
        staging = Path(scratch)
        (staging / "mlxmesh").mkdir()
        if _compile(sources, staging) != 0:
            return 1
        _make_packages(sources, staging)
        changed = _sync(staging / "mlxmesh", OUTPUT / "mlxmesh")
    print(f"protos: {len(sources)} contracts, {changed} generated files changed")
    return 0


def _compile(sources: list[Path], staging: Path) -> int:
    # The mypy-protobuf plugins lie beside the interpreter of the virtual environment.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    arguments = [
        "protoc",
        f"--proto_path={PROTOS}",
        f"--proto_path={resources.files('grpc_tools') / '_proto'}",
        f"--python_out={staging}",
        f"--grpc_python_out={staging}",
        f"--mypy_out=quiet:{staging}",
        f"--mypy_grpc_out=quiet,only_async:{staging}",
        f"--descriptor_set_out={staging / 'mlxmesh' / 'descriptors.binpb'}",
        "--include_imports",
        "--include_source_info",
        *(str(source) for source in sources),
    ]
    return protoc.main(arguments)


def _make_packages(sources: list[Path], staging: Path) -> None:
    """Adds what makes the stubs a typed package, and the contracts they came from."""
    for source in sources:
        target = staging / source.relative_to(PROTOS)
        target.write_bytes(source.read_bytes())
    package = staging / "mlxmesh"
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").touch()
    (package / "py.typed").touch()


def _sync(source: Path, target: Path) -> int:
    """Makes `target` equal to `source`, file by file, so that no import of it ever trips."""
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    present = {path.relative_to(target) for path in target.rglob("*") if path.is_file()}
    stale = {path for path in present - wanted if "__pycache__" not in path.parts}
    changed = {path for path in wanted if not _same(source / path, target / path)}
    for path in changed:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        temporary = target / path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes((source / path).read_bytes())
        temporary.replace(target / path)
    for path in stale:
        (target / path).unlink(missing_ok=True)
    return len(changed) + len(stale)


def _same(left: Path, right: Path) -> bool:
    return right.is_file() and left.read_bytes() == right.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
