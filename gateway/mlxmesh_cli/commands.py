"""The command line: names and help of every subcommand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mlxmesh_cli import certs, chat, events, lifecycle, models, rolling, settings, text, top, trace
from mlxmesh_cli.pipes import QuietGroup
from mlxmesh_cli.session import TLS_VARIABLES

app = typer.Typer(
    name="mlxmesh",
    cls=QuietGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

MESH, MODELS, TEXT = "Run the mesh", "Models", "Text"

app.command(rich_help_panel=MESH)(lifecycle.up)
app.command(rich_help_panel=MESH)(lifecycle.down)
app.command(rich_help_panel=MESH)(lifecycle.status)
app.command(rich_help_panel=MESH)(lifecycle.logs)
app.command(rich_help_panel=MESH)(events.events)
app.command(rich_help_panel=MESH)(top.top)
app.command(rich_help_panel=MESH)(rolling.restart)
app.command(rich_help_panel=MESH)(rolling.drain)
app.command(rich_help_panel=MESH)(settings.doctor)
app.add_typer(settings.config, name="config", rich_help_panel=MESH)
app.add_typer(certs.certs, name="certs", rich_help_panel=MESH)
app.command("models", rich_help_panel=MODELS)(models.list_models)
app.command(rich_help_panel=MODELS)(models.register)
app.command(rich_help_panel=MODELS)(models.pull)
app.command(rich_help_panel=MODELS)(models.load)
app.command(rich_help_panel=MODELS)(models.unload)
app.command(rich_help_panel=MODELS)(models.delete)
app.command(rich_help_panel=MODELS)(models.alias)
app.command(rich_help_panel=TEXT)(text.generate)
app.command(rich_help_panel=TEXT)(text.attach)
app.command(rich_help_panel=TEXT)(chat.chat)
app.command(rich_help_panel=TEXT)(text.tokens)
app.command(rich_help_panel=TEXT)(trace.trace)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mlxmesh {version('mlxmesh')}")
        raise typer.Exit


@app.callback()
def credentials(
    ca: Annotated[
        Path | None,
        typer.Option(help="The authority of a gateway with TLS. Default: MLXMESH_CA."),
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(help="Your certificate. Default: MLXMESH_CERT.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its key. Default: MLXMESH_KEY.")] = None,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Serve MLX language models from a mesh of small services.

    Start with `mlxmesh up`, then `mlxmesh chat` in another terminal. A mesh with TLS that runs on
    this host needs no --ca, --cert and --key; they come before the command's name.
    """
    # As variables they reach `session.tls_of` without every command handing them on.
    given = zip(TLS_VARIABLES, (ca, cert, key), strict=True)
    os.environ.update({name: str(path) for name, path in given if path is not None})
