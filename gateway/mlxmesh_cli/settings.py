"""Commands about this host: what is configured, and what stands in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from mlxmesh_cli.session import DataDir, Json, fail, print_json, resolve_data_dir

if TYPE_CHECKING:
    from mlxmesh_cli.checks import Check

config = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)


@config.command("show")
def show(data_dir: DataDir = None, json: Json = False) -> None:
    """Print every setting, its value, and whether a file, the environment or a default set it."""
    from mlxmesh_shared.settings import SETTINGS, SettingsError, sources

    argv = ["--data-dir", str(resolve_data_dir(data_dir))] if data_dir else []
    try:
        rows = [
            {"section": section, "name": name, "value": str(value), "source": source}
            for section, cls in SETTINGS.items()
            for name, value, source in sources(cls, argv)
        ]
    except SettingsError as error:
        fail(str(error))
    if json:
        print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("section", "setting", "value", "source", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def doctor(data_dir: DataDir = None, json: Json = False) -> None:
    """Check this host: ports, BLAS, device, disk, memory, versions; each with the mend."""
    from mlxmesh_cli.checks import run_checks

    checks = run_checks(resolve_data_dir(data_dir))
    if json:
        print_json([vars(check) for check in checks])
    else:
        _print_checks(checks)
    if any(not check.ok for check in checks):
        raise typer.Exit(1)


def _print_checks(checks: list[Check]) -> None:
    for check in checks:
        typer.secho("ok   " if check.ok else "mend ", fg="green" if check.ok else "red", nl=False)
        typer.echo(f"{check.name}: {check.finding}")
        if not check.ok:
            typer.echo(f"       {check.mend}")
