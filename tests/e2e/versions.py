"""Installs versions of mlxmesh from wheels, beside this checkout's environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAST_LANDED = ROOT / "deploy" / "last-landed"
UV = Path(sys.executable).parent / "uv"
OLD_VERSION = "0.0.1"


def last_landed() -> str:
    """The commit that `deploy/last-landed` names."""
    lines = LAST_LANDED.read_text().splitlines()
    (commit,) = [line for line in lines if line and not line.startswith("#")]
    return commit


def wheel_of_commit(commit: str, folder: Path) -> Path:
    """The wheel of an earlier commit, whose version is set to OLD_VERSION."""
    if _git("cat-file", "-e", f"{commit}^{{commit}}").returncode != 0:
        reason = f"this clone lacks {commit}, which deploy/last-landed names"
        if _git("rev-parse", "--is-shallow-repository").stdout.strip() == b"false":
            pytest.fail(reason)
        pytest.skip(f"{reason}, and has no history: git fetch --unshallow")
    source = folder / "source"
    source.mkdir(parents=True)
    archive = folder / "source.tar"
    _run("git", "archive", "--output", str(archive), commit, cwd=ROOT)
    with tarfile.open(archive) as files:
        files.extractall(source, filter="data")
    # Development does not raise the version with each change.
    project = source / "pyproject.toml"
    head, version, rest = project.read_text().partition('\nversion = "')
    project.write_text(f'{head}{version}{OLD_VERSION}"{rest.partition(chr(34))[2]}')
    _run(sys.executable, "deploy/tools/generate_protos.py", cwd=source)
    return _wheel(source, folder)


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=False)


def wheel_of_checkout(folder: Path) -> Path:
    """The wheel of this checkout."""
    return _wheel(ROOT, folder)


def _wheel(source: Path, folder: Path) -> Path:
    console = folder / "console"
    console.mkdir(parents=True)
    (console / "index.html").touch()
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder))
    _run(*build, str(source), cwd=folder, env={"MLXMESH_CONSOLE_BUILD": str(console)})
    (wheel,) = folder.glob("mlxmesh-*.whl")
    return wheel


@dataclass(frozen=True)
class Environment:
    """A virtual environment with one version, and the dependencies of this checkout."""

    folder: Path

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    @property
    def mlxmesh(self) -> tuple[str, ...]:
        """Its command."""
        return (self.python, "-m", "mlxmesh_cli")

    @classmethod
    def create(cls, folder: Path) -> Environment:
        """Makes an environment without mlxmesh."""
        _run(str(UV), "venv", "--quiet", "--offline", "--python", sys.executable, str(folder))
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        # The files in it that make this checkout importable are not read.
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return cls(folder)

    def install(self, wheel: Path) -> None:
        """Installs a version in place of the one that is there."""
        pip = (str(UV), "pip", "install", "--quiet", "--offline", "--python", self.python)
        _run(*pip, "--no-deps", "--reinstall", str(wheel))


def _run(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
