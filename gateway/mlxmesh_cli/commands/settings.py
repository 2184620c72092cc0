"""Commands about this host: config and doctor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

import typer

from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import DataDir, Json
from mlxmesh_cli.mesh.location import resolve_data_dir, settings_flags
from mlxmesh_cli.screen.output import print_json, print_view, say

if TYPE_CHECKING:
    from mlxmesh_cli.commands.checks import Check
    from mlxmesh_shared.settings import MeshSettings

config = typer.Typer(help="Show settings and their sources.", no_args_is_help=True)


@config.command("show", epilog="Example: mlxmesh config show | grep max_")
def show(data_dir: DataDir = None, json: Json = False) -> None:
    """Print every setting with its value and source.

    Settings marked "while running" can be changed in the configuration store without a restart.
    """
    from mlxmesh_shared.settings import SettingsError

    try:
        rows = _rows(settings_flags(data_dir))
    except SettingsError as error:
        fail(str(error))
    if json:
        print_json(rows)
        return
    from mlxmesh_cli.screen.grid import Column, Grid

    table = Grid(
        Column("section"),
        Column("setting"),
        Column("value"),
        Column("source", drop=1),
        Column("changes", drop=2),
    )
    for row in rows:
        table.add(*row.values())
    print_view(table)


def _rows(flags: list[str]) -> list[dict[str, str]]:
    """A row for each setting. Raises: SettingsError."""
    from mlxmesh_shared.settings import SETTINGS, MeshSettings, load_settings, section_values

    stored = asyncio.run(_stored(load_settings(MeshSettings, flags)))
    return [
        {"section": section, **row}
        for section, cls in SETTINGS.items()
        for row in _section_rows(cls, flags, section_values(stored, section))
    ]


def _section_rows(
    cls: type[MeshSettings], flags: list[str], stored: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    from mlxmesh_shared.settings import dynamic_names, live_settings, sources

    live = live_settings(cls, flags)
    live.apply(stored)
    for name, value, source in sources(cls, flags, stored=live.stored):
        changes = "while running" if name in dynamic_names(cls) else "at start"
        yield {"name": name, "value": _shown(value), "source": source, "changes": changes}


def _shown(value: object) -> str:
    """A value as in mlxmesh.toml, without quotes; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        # A sink's repr is its text in the settings.
        each_of = cast("tuple[object, ...]", value)
        return ", ".join(each if isinstance(each, str) else repr(each) for each in each_of)
    return str(value)


async def _stored(settings: MeshSettings) -> Mapping[str, str]:
    """The content of the configuration store; empty, with a warning, while it is unavailable."""
    from mlxmesh_shared.config_store import open_config_store
    from mlxmesh_shared.errors import RegistryUnavailable

    try:
        async with open_config_store(settings) as store:
            return await store.read()
    except RegistryUnavailable as error:
        say(f"settings in the configuration store are missing: {error}", "yellow", err=True)
        return {}


def doctor(data_dir: DataDir = None, json: Json = False) -> None:
    """Check ports, BLAS, device, disk, memory and versions; print a fix for each problem."""
    from mlxmesh_cli.commands.checks import run_checks

    checks = run_checks(resolve_data_dir(data_dir))
    if json:
        print_json([vars(check) for check in checks])
    else:
        _print_checks(checks)
    if any(not check.ok for check in checks):
        raise typer.Exit(1)


def _print_checks(checks: list[Check]) -> None:
    for check in checks:
        say("ok   " if check.ok else "fix  ", "green" if check.ok else "red", nl=False)
        typer.echo(f"{check.name}: {check.finding}")
        if not check.ok:
            typer.echo(f"       {check.fix}")
