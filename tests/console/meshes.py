"""Meshes that serve the console, and who signs in there."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Page

from tests.e2e.running_mesh import MLXMESH, RunningMesh

ROOT = Path(__file__).resolve().parents[2]
BUILD_TIMEOUT_S = 600
POCKET = ROOT / "deploy" / "demo-model" / "pocket"
ADMIN = "ada"
PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class ConsoleMesh:
    """A running mesh and where its console is."""

    mesh: RunningMesh

    @property
    def url(self) -> str:
        """The console's origin."""
        return f"http://{self.mesh.http}"

    def command(self, *arguments: str) -> str:
        """What a command prints that succeeds."""
        result = self.mesh.command(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def register_versions(self, name: str, directory: Path, count: int = 2) -> None:
        """Registers versions of a model with equal weights, and loads the first one."""
        for number in range(1, count + 1):
            copy = directory / f"{name}-{number}"
            shutil.copytree(POCKET, copy)
            config = json.loads((copy / "config.json").read_text())
            changed = {**config, "comment": f"version {number}"}
            (copy / "config.json").write_text(json.dumps(changed))
            self.command("register", str(copy), "--name", name)
        self.command("load", f"{name}@1")

    async def sign_in(self, page: Page, name: str = ADMIN, password: str = PASSWORD) -> None:
        """Gives the page's browser session the cookies of a user."""
        answer = await page.request.post(
            "/session", data={"name": name, "password": password}, headers={"origin": self.url}
        )
        assert answer.ok, (answer.status, await answer.text())


def build_console() -> None:
    """Builds the console, unless it is up to date; one process at a time."""
    lock = ROOT / "build" / "console.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        command = ("make", "--silent", "console", f"PYTHON={sys.executable}")
        built = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    assert built.returncode == 0, built.stderr + built.stdout


def create_admin(mesh: RunningMesh, name: str = ADMIN, password: str = PASSWORD) -> None:
    """Creates the first administrator: from then on callers have to sign in."""
    command = ("users", "create", name, "--admin", "--password-file", "-")
    created = subprocess.run(
        [*MLXMESH, *command, "--data-dir", str(mesh.data_dir)],
        input=password,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert created.returncode == 0, created.stderr
