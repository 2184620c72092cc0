"""Whose prefixes a directory holds: what must be equal for keys and values to be equal."""

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

WEIGHTS = "weights"
"""The directory, beside those of the models, of what is known of weights."""
# To be changed when keys and values change for equal weights and layout.
_FORMAT = 1


def identity(model_dir: Path, facts: Mapping[str, str], memory: Path) -> str:
    """A name for the directory; reads all weights, unless `memory` knows their digest.

    facts: what else matters, such as the type of numbers. Raises: OSError.
    """
    libraries = {name: version(name) for name in ("mlx", "mlx-lm")}
    everything = {
        "format": _FORMAT,
        "weights": _digest_of(model_dir, memory),
        **libraries,
        **facts,
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


def _digest_of(model_dir: Path, memory: Path) -> str:
    """Of the configuration and the weights, by content."""
    files = sorted([model_dir / "config.json", *model_dir.glob("*.safetensors")])
    known = memory / f"{_changes_key(files)}.digest"
    try:
        return known.read_text()
    except FileNotFoundError:
        pass
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    memory.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = known.with_suffix(f".{os.getpid()}.partial")
    written.write_text(digest.hexdigest())
    written.replace(known)
    return digest.hexdigest()


def _changes_key(files: list[Path]) -> str:
    """Changes whenever a file does: no program can set the time of its last change of state."""
    stats = [(str(path), path.stat()) for path in files]
    facts = [
        (name, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for name, stat in stats
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
