"""How an installation is upgraded, by what installed it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mlxmesh_cli.installation.upgrading import (
    Installation,
    available_version,
    installed_extras,
    upgrade_of,
)

FOUND = Installation("0.1.0", "/venv/bin/python", installer="pip", extras=("all",))


@pytest.mark.parametrize(
    ("found", "by", "install"),
    [
        (FOUND, "pip", "/venv/bin/python -m pip install --upgrade mlxmesh[all]"),
        (
            replace(FOUND, installer="uv", extras=("cli", "gateway")),
            "uv",
            "uv pip install --python /venv/bin/python --upgrade mlxmesh[cli,gateway]",
        ),
        (replace(FOUND, prefix_files=("uv-receipt.toml",)), "uv tool", "uv tool upgrade mlxmesh"),
        (replace(FOUND, prefix_files=("pipx_metadata.json",)), "pipx", "pipx upgrade mlxmesh"),
        (replace(FOUND, extras=()), "pip", "/venv/bin/python -m pip install --upgrade mlxmesh"),
    ],
)
def test_who_installed_it_upgrades_it(found: Installation, by: str, install: str) -> None:
    how = upgrade_of(found)
    assert how.by == by
    assert " ".join(how.install) == install
    assert "--dry-run" in how.look
    assert how.advice == ""


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        (replace(FOUND, is_editable=True), "git pull"),
        (replace(FOUND, installer="conda"), "by conda"),
        (replace(FOUND, is_venv=False, installer="apt"), "by apt"),
        (replace(FOUND, installer=""), "what installed it"),
    ],
)
def test_others_are_told_what_to_do(found: Installation, advice: str) -> None:
    how = upgrade_of(found)
    assert how.install == ()
    assert advice in how.advice


PIP = json.dumps(
    {"version": "1", "install": [{"metadata": {"name": "mlxmesh", "version": "0.2.0"}}]}
)


@pytest.mark.parametrize(
    ("output", "version"),
    [
        (PIP, "0.2.0"),
        (f"WARNING: something {{odd\n{PIP}", ""),
        (f"{PIP}\nnotice: a new pip", "0.2.0"),
        ('{"install": []}', ""),
        ("Would install 1 package\n - mlxmesh==0.1.0\n + mlxmesh==0.2.0\n", "0.2.0"),
        ("Audited 1 package in 3ms\nWould make no changes\n", ""),
        ("", ""),
    ],
)
def test_the_version_that_would_be_installed(output: str, version: str) -> None:
    assert available_version(output) == version


REQUIRES = [
    "grpcio>=1.85",
    "rich>=14; extra == 'cli'",
    'typer>=0.16 ; extra == "cli"',
    "uvicorn>=0.35; extra == 'gateway'",
    "prometheus_client; extra == 'gateway'",
    "rumps>=0.4; sys_platform == 'darwin' and extra == 'menubar'",
    "pytest>=9; extra == 'dev'",
]


def test_extras_are_those_whose_packages_are_all_here() -> None:
    here: dict[str, object] = dict.fromkeys(("grpcio", "rich", "typer", "uvicorn", "pytest"), "")
    assert installed_extras(REQUIRES, here) == ("cli",)
    assert installed_extras(REQUIRES, here | {"prometheus-client": None}) == ("cli", "gateway")
    everything = ["rich>=14; extra == 'all'", "typer>=0.16; extra == 'all'"]
    assert installed_extras([*REQUIRES, *everything], here) == ("all",)
