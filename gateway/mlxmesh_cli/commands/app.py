"""The command line: every subcommand, a line about it, and an example."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxmesh_cli.commands import (
    certs,
    lifecycle,
    models,
    observe,
    rolling,
    settings,
    text,
    up,
)
from mlxmesh_cli.commands.failures import QuietGroup
from mlxmesh_cli.commands.session import TLS_VARIABLES

app = typer.Typer(
    name="mlxmesh",
    cls=QuietGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)

MESH, MODELS, TEXT = "Run the mesh", "Models", "Text"


def _add(
    panel: str, command: Callable[..., None], line: str, example: str, *, name: str | None = None
) -> None:
    options: dict[str, Any] = {"short_help": line, "epilog": f"Example: {example}"}
    app.command(name, rich_help_panel=panel, **options)(command)


# In the order in which `mlxmesh --help` lists them; a line has at most 66 characters.
_add(MESH, up.up, "Start the whole mesh on this host.", "mlxmesh up --detach --replicas 2")
_add(MESH, lifecycle.down, "Stop the mesh of a data directory.", "mlxmesh down")
_add(MESH, lifecycle.status, "Show every process and model.", "mlxmesh status --json")
_add(MESH, lifecycle.logs, "Show the end of the logs.", "mlxmesh logs gateway -n 50 --follow")
_add(MESH, observe.events, "Show what happened.", "mlxmesh events --follow --name 'engine.*'")
_add(MESH, observe.top, "Watch the mesh at work.", "mlxmesh top --interval 0.5")
_add(
    MESH,
    rolling.restart,
    "Replace processes one at a time, without a failed call.",
    "mlxmesh restart generation gateway",
)
_add(
    MESH, rolling.drain, "Ask one process to leave.", "mlxmesh drain generation-54e0 --timeout 600"
)
_add(MESH, settings.doctor, "Find what is wrong with this host.", "mlxmesh doctor")
app.add_typer(settings.config, name="config", rich_help_panel=MESH)
app.add_typer(certs.certs, name="certs", rich_help_panel=MESH)
_add(MODELS, models.list_models, "List the models.", "mlxmesh models --json", name="models")
_add(
    MODELS,
    models.register,
    "Add a directory or a GGUF file to the models.",
    "mlxmesh register ~/models/Qwen3-0.6B-4bit --name qwen",
)
_add(
    MODELS,
    models.pull,
    "Download a model from a hub.",
    "mlxmesh pull mlx-community/Qwen3-0.6B-4bit --name qwen",
)
_add(
    MODELS, models.load, "Load a model and wait until it serves.", "mlxmesh load qwen --replicas 2"
)
_add(MODELS, models.unload, "Drain a model and unload it.", "mlxmesh unload qwen@1")
_add(MODELS, models.delete, "Remove a model, or a version of it.", "mlxmesh delete qwen@1")
_add(MODELS, models.alias, "Point NAME:ALIAS at a version.", "mlxmesh alias qwen stable 2")
_add(
    TEXT,
    text.generate,
    "Stream one answer.",
    'mlxmesh generate "Tell me a story." -m qwen:stable --temperature 0.7 --seed 1',
)
_add(
    TEXT,
    text.attach,
    "Resume an answer that was begun with --request-id.",
    "mlxmesh attach my-request --after 17",
)
_add(
    TEXT,
    text.chat,
    "Talk to a model over several turns.",
    'mlxmesh chat -m qwen --system "You are brief."',
)
_add(TEXT, text.tokens, "Count the tokens of a prompt.", "mlxmesh tokens - < prompt.txt")
_add(TEXT, observe.trace, "Show where the time of one request went.", "mlxmesh trace my-request")


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

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no mesh to be found, 130 Ctrl-C, 141
    the reader of the output left.
    """
    # As variables they reach `session.tls_of` without every command handing them on.
    given = zip(TLS_VARIABLES, (ca, cert, key), strict=True)
    os.environ.update({name: str(path) for name, path in given if path is not None})
