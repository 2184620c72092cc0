"""The command that installs a newer version: upgrade."""

from __future__ import annotations

import json as json_text
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.confirmation import Yes, confirm
from mlxmesh_cli.commands.failures import fail, reported_errors
from mlxmesh_cli.commands.session import DataDir, Json
from mlxmesh_cli.mesh.location import resolve_data_dir
from mlxmesh_cli.screen.output import print_json

if TYPE_CHECKING:
    from mlxmesh_cli.installation.upgrading import Installation, Upgrade


def upgrade(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether there is a newer version.")
    ] = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Install a newer version, then restart the services one at a time, without failed calls.

    pip, uv or pipx does it, whichever installed this version. The launcher of a running mesh
    itself stays the old one until the next start of the mesh.
    """
    from mlxmesh_cli.installation.host import SubprocessRunner
    from mlxmesh_cli.installation.upgrading import available_version, upgrade_of

    found = installation()
    how = upgrade_of(found)
    if how.advice:
        fail(f"mlxmesh {found.version}: {how.advice}", reason="NOT_UPGRADABLE")
    with reported_errors():
        looked = SubprocessRunner().run(how.look)
    if looked.code != 0:
        last = looked.output.strip().splitlines()[-1:] or [f"exit code {looked.code}"]
        fail(f"{how.by} cannot look for a newer version: {last[0]}; is this machine online?")
    newest = available_version(looked.output)
    _report(found, newest, json=json and (check or not newest))
    if check or not newest:
        return
    if not confirm(f"install mlxmesh {newest} by {how.by}?", yes=yes):
        fail("nothing was changed", reason="CANCELLED")
    restarted = _install(how, data_dir)
    if json:
        print_json({"installed": found.version, "now": newest, "restarted": restarted})


def _report(found: Installation, newest: str, *, json: bool) -> None:
    if json:
        print_json({"installed": found.version, "available": newest or found.version})
    elif newest:
        typer.echo(f"mlxmesh {found.version} is installed; {newest} is available", err=True)
    else:
        typer.echo(f"mlxmesh {found.version} is the newest version")


def _install(how: Upgrade, data_dir: Path | None) -> bool:
    """Installs it and restarts the mesh of the data directory; whether there was one."""
    import subprocess

    from mlxmesh_cli.mesh.http_port import load_http
    from mlxmesh_launcher.record import read_record

    directory = resolve_data_dir(data_dir)
    record = read_record(directory)
    if record is not None and record.http:
        load_http(record.http)
    if subprocess.run(how.install, stdout=sys.stderr, check=False).returncode != 0:
        fail(f"`{' '.join(how.install)}` failed; mlxmesh is as it was, or run it again")
    if record is None:
        return False
    # In a process of its own: this one has modules of the old version.
    restart = (sys.executable, "-m", "mlxmesh_cli", "restart", "--data-dir", str(directory))
    if subprocess.run(restart, stdout=sys.stderr, check=False).returncode != 0:
        fail(
            "the new version is installed, but the services run the old one; try `mlxmesh restart`"
        )
    return True


def installation() -> Installation:
    """How this mlxmesh is installed."""
    from importlib.metadata import distribution, distributions

    from mlxmesh_cli.installation.upgrading import (
        DISTRIBUTION,
        Installation,
        installed_extras,
        normalized,
    )

    ours = distribution(DISTRIBUTION)
    is_editable = False
    with suppress(ValueError, TypeError, AttributeError):
        origin = json_text.loads(ours.read_text("direct_url.json") or "{}")
        is_editable = bool(origin.get("dir_info", {}).get("editable"))
    installed = {normalized(each.name): each for each in distributions()}
    return Installation(
        version=ours.version,
        python=sys.executable,
        prefix_files=tuple(path.name for path in Path(sys.prefix).iterdir() if path.is_file()),
        installer=(ours.read_text("INSTALLER") or "").strip(),
        is_editable=is_editable,
        is_venv=sys.prefix != sys.base_prefix,
        extras=installed_extras(ours.requires or (), installed),
    )
