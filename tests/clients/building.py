"""Examples that are compiled: built in a copy that is kept, so that a second build is quick.

Maven and cargo take minutes when they start from nothing. The copy lies under ~/.cache/mlxmesh, as
in a checkout, and nothing is left in the real one.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPY = Path.home() / ".cache" / "mlxmesh" / "examples"
# What Maven and cargo make.
BUILT = ("target", "Cargo.lock")


@contextmanager
def kept_copy(folder: str) -> Iterator[Path]:
    """The copy of an example's folder, with the contracts beside it; one process at a time."""
    COPY.mkdir(parents=True, exist_ok=True)
    with (COPY / f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for part in ("protos/mlxmesh", f"docs/examples/{folder}"):
            _mirror(ROOT / part, COPY / folder / part)
        yield COPY / folder / "docs/examples" / folder


def _mirror(source: Path, copy: Path) -> None:
    """Makes the copies equal; files that are equal keep their times, which builds go by."""
    wanted = _files(source)
    for path in _files(copy) - wanted:
        (copy / path).unlink()
    for path in wanted:
        content, target = (source / path).read_bytes(), copy / path
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def _files(folder: Path) -> set[Path]:
    paths = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path for path in paths if path.parts[0] not in BUILT}
