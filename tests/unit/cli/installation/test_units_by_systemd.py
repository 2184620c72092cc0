"""systemd's own check of the units, and its measure of their exposure."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlxmesh_cli.installation.service import Scope, Service
from mlxmesh_cli.installation.systemd import STATE_DIR, Systemd
from tests.fakes.tools import tool

pytestmark = pytest.mark.tools

MAX_EXPOSURE = 30
"""3.0, as systemd-analyze counts."""
SYSTEM = Service("all", Scope.SYSTEM, Path(sys.executable), STATE_DIR, environment={"A": "b c%"})
USER = replace(SYSTEM, scope=Scope.USER, data_dir=Path("/home/ada/.mlxmesh"))
UNITS = {
    "own account": SYSTEM,
    "existing account": replace(SYSTEM, account="daemon", data_dir=Path("/srv/mesh")),
    "gateway": replace(SYSTEM, what="gateway"),
    "gpu": replace(SYSTEM, has_gpu=True),
    "user": USER,
}


@pytest.mark.parametrize("name", [*UNITS, "no user namespaces"])
def test_systemd_accepts_the_unit(name: str, tmp_path: Path) -> None:
    service = UNITS.get(name, replace(USER, can_sandbox=False))
    assert analyze(service, tmp_path, "verify") == ""


@pytest.mark.parametrize("name", UNITS)
def test_the_exposure_is_at_most_3(name: str, tmp_path: Path) -> None:
    limit = ("security", "--offline=true", f"--threshold={MAX_EXPOSURE}", "--no-pager")
    assert "Overall exposure level" in analyze(UNITS[name], tmp_path, *limit)


def analyze(service: Service, folder: Path, *words: str) -> str:
    """What systemd-analyze prints of the unit; it must succeed."""
    file = folder / f"{service.name}.service"
    file.write_bytes(Systemd(service.scope, folder).render(service))
    scope = ("--user",) if service.scope == Scope.USER else ()
    done = subprocess.run(
        [tool("systemd-analyze"), *scope, *words, str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
