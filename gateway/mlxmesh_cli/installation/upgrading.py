"""How this installation is upgraded: by the program that installed it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from mlxmesh_cli.installation.service import Command

DISTRIBUTION = "mlxmesh"


@dataclass(frozen=True)
class Installation:
    """What is known of the installed package."""

    version: str
    python: str
    prefix_files: Collection[str] = ()
    """Names of files at the top of its environment."""
    installer: str = ""
    """The INSTALLER file of its metadata: pip, uv, or another."""
    is_editable: bool = False
    is_venv: bool = True
    extras: tuple[str, ...] = ()


@dataclass(frozen=True)
class Upgrade:
    """Commands that look for a newer version and install it."""

    by: str
    """The program that does it; empty where a person has to."""
    look: Command = ()
    install: Command = ()
    advice: str = ""
    """What to do instead, where it is not done here."""


def upgrade_of(found: Installation) -> Upgrade:
    """How to upgrade what is installed."""
    if found.is_editable:
        return Upgrade(
            "", advice="this is a source checkout: run `git pull`, then `make setup protos`"
        )
    look_by_uv = ("uv", "pip", "install", "--python", found.python, "--dry-run", "--upgrade")
    look_by_uv = (*look_by_uv, "--no-deps", DISTRIBUTION)
    if "uv-receipt.toml" in found.prefix_files:
        return Upgrade("uv tool", look_by_uv, ("uv", "tool", "upgrade", DISTRIBUTION))
    if "pipx_metadata.json" in found.prefix_files:
        look = ("pipx", "runpip", DISTRIBUTION, *_pip_look())
        return Upgrade("pipx", look, ("pipx", "upgrade", DISTRIBUTION))
    if not found.is_venv:
        return Upgrade(
            "", advice=f"it is not in a virtual environment; upgrade it by {_who(found)}"
        )
    wanted = f"{DISTRIBUTION}[{','.join(found.extras)}]" if found.extras else DISTRIBUTION
    if found.installer == "uv":
        install = ("uv", "pip", "install", "--python", found.python, "--upgrade", wanted)
        return Upgrade("uv", look_by_uv, install)
    if found.installer == "pip":
        pip = (found.python, "-m", "pip")
        return Upgrade("pip", (*pip, *_pip_look()), (*pip, "install", "--upgrade", wanted))
    return Upgrade("", advice=f"upgrade it by {_who(found)}")


def _who(found: Installation) -> str:
    return found.installer or "what installed it"


def _pip_look() -> Command:
    return (
        "install",
        "--dry-run",
        "--upgrade",
        "--no-deps",
        "--quiet",
        "--report",
        "-",
        DISTRIBUTION,
    )


def available_version(output: str) -> str:
    """The version that the command that looks would install; empty when there is no newer one.

    pip reports JSON, uv a line such as ` + mlxmesh==0.2.0`.
    """
    for line in output.splitlines():
        if found := re.match(rf"\s*\+ {DISTRIBUTION}==(\S+)", line):
            return found[1]
    _, brace, rest = output.partition("{")
    try:
        report = json.JSONDecoder().raw_decode(brace + rest)[0]
        return report["install"][0]["metadata"]["version"]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""


def installed_extras(
    requirements: Iterable[str], installed: Mapping[str, object]
) -> tuple[str, ...]:
    """The extras of which every requirement is installed, by lines of the package's metadata.

    `installed` has the normalized names of distributions. Extras without requirements of their own
    count only when nothing says otherwise.
    """
    needed: dict[str, set[str]] = {}
    for line in requirements:
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", line)
        name = re.match(r"[\w.-]+", line)
        # Requirements of other platforms are not installed here.
        if extra and name and "sys_platform" not in line:
            needed.setdefault(extra[1], set()).add(normalized(name[0]))
    found = sorted(extra for extra, names in needed.items() if names <= set(installed))
    return ("all",) if "all" in found else tuple(each for each in found if each != "dev")


def normalized(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
