"""The command line: every subcommand with its short help and an example."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxmesh_cli.commands import (
    adapters,
    artifacts,
    batch,
    certs,
    connect,
    console,
    downloads,
    embeddings,
    ensembles,
    experiments,
    files,
    help_topics,
    history,
    hosts,
    install,
    jobs,
    keys,
    lifecycle,
    mcp_serve,
    menubar,
    models,
    observe,
    output_formats,
    profiles,
    queues,
    quotas,
    requests,
    rolling,
    rollouts,
    settings,
    shadows,
    shell_completion,
    sign_in,
    system,
    text,
    up,
    upgrade,
    usage,
    users,
)
from mlxmesh_cli.commands.failures import QuietGroup
from mlxmesh_cli.commands.session import API_KEY_VARIABLE, INSECURE_KEY_VARIABLE, TLS_VARIABLES

app = typer.Typer(
    name="mlxmesh",
    cls=QuietGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)

MESH, MODELS, TEXT, JOBS = "Run the mesh", "Models", "Text", "Jobs"
USERS, DESKTOP = "Users and keys", "This host"


def _add(
    panel: str, command: Callable[..., None], line: str, example: str, *, name: str | None = None
) -> None:
    options: dict[str, Any] = {"short_help": line, "epilog": f"Example: {example}"}
    app.command(name, rich_help_panel=panel, **options)(command)


# In the order in which `mlxmesh --help` lists them; a line has at most 66 characters.
_add(MESH, up.up, "Start a whole mesh on this host.", "mlxmesh up --detach --replicas 2")
_add(MESH, lifecycle.down, "Stop the mesh of a data directory.", "mlxmesh down")
_add(MESH, lifecycle.status, "Show every instance and model.", "mlxmesh status --json")
_add(MESH, lifecycle.logs, "Show the end of the logs.", "mlxmesh logs gateway -n 50 --follow")
_add(MESH, observe.events, "Show events of the mesh.", "mlxmesh events --follow --name 'engine.*'")
_add(MESH, observe.top, "Show live traffic and load.", "mlxmesh top --interval 0.5")
_add(
    MESH,
    rolling.restart,
    "Restart services one at a time, without failed calls.",
    "mlxmesh restart generation gateway",
)
_add(
    MESH,
    rolling.drain,
    "Drain one instance and end it.",
    "mlxmesh drain generation-54e0 --timeout 600",
)
_add(MESH, settings.doctor, "Check this host for problems.", "mlxmesh doctor")
app.add_typer(requests.requests, name="requests", rich_help_panel=MESH)
app.add_typer(system.system, name="system", rich_help_panel=MESH)
app.add_typer(settings.config, name="config", rich_help_panel=MESH)
app.add_typer(certs.certs, name="certs", rich_help_panel=MESH)
app.add_typer(hosts.hosts, name="hosts", rich_help_panel=MESH)
app.add_typer(output_formats.models, name="models", rich_help_panel=MODELS)
app.add_typer(profiles.profiles, name="profiles", rich_help_panel=MODELS)
_add(
    MODELS,
    models.register,
    "Add a model directory or a GGUF file.",
    "mlxmesh register ~/models/Qwen3-0.6B-4bit --name qwen",
)
_add(
    MODELS,
    models.pull,
    "Download a model from a hub.",
    "mlxmesh pull mlx-community/Qwen3-0.6B-4bit --name qwen",
)
app.add_typer(downloads.downloads, name="downloads", rich_help_panel=MODELS)
_add(
    MODELS,
    models.load,
    "Load a model and wait until it is ready.",
    "mlxmesh load qwen --replicas 2 --profile long",
)
_add(MODELS, models.unload, "Drain and unload a model.", "mlxmesh unload qwen@1")
_add(MODELS, models.delete, "Delete a model or one of its versions.", "mlxmesh delete qwen@1")
app.add_typer(adapters.adapters, name="adapters", rich_help_panel=MODELS)
app.add_typer(ensembles.ensembles, name="ensembles", rich_help_panel=MODELS)
_add(MODELS, models.alias, "Point NAME:ALIAS at a version.", "mlxmesh alias qwen stable 2")
app.add_typer(artifacts.artifacts, name="artifacts", rich_help_panel=MODELS)
app.add_typer(rollouts.rollout, name="rollout", rich_help_panel=MODELS)
_add(
    MODELS,
    history.history,
    "Show what each version did and what it cost.",
    "mlxmesh history qwen --since 7d --by day",
)
app.add_typer(experiments.experiment, name="experiment", rich_help_panel=MODELS)
app.add_typer(shadows.shadows, name="shadow", rich_help_panel=MODELS)
_add(
    TEXT,
    text.generate,
    "Generate a response and stream it.",
    'mlxmesh generate "Tell me a story." -m qwen:stable --temperature 0.7 --seed 1',
)
_add(
    TEXT,
    text.attach,
    "Resume a response by its request id.",
    "mlxmesh attach my-request --after 17@1f0c",
)
_add(
    TEXT,
    text.chat,
    "Chat with a model.",
    'mlxmesh chat -m qwen --system "You are brief."',
)
_add(
    TEXT,
    embeddings.embed,
    "Make vectors of texts.",
    'mlxmesh embed minilm "a fox" "a dog" "a car"',
)
_add(
    TEXT,
    embeddings.rerank,
    "Order documents by their relevance to a query.",
    'mlxmesh rerank bge "capital of Norway" -f documents.txt --top 3',
)
_add(TEXT, text.tokens, "Count the tokens of a prompt.", "mlxmesh tokens - < prompt.txt")
_add(TEXT, observe.trace, "Show the timeline of one request.", "mlxmesh trace my-request")

app.add_typer(mcp_serve.mcp, name="mcp", rich_help_panel=TEXT)

app.add_typer(jobs.jobs, name="jobs", rich_help_panel=JOBS)
app.add_typer(batch.batch, name="batch", rich_help_panel=JOBS)
app.add_typer(files.files, name="files", rich_help_panel=JOBS)
app.add_typer(queues.queues, name="queues", rich_help_panel=JOBS)

app.add_typer(users.users, name="users", rich_help_panel=USERS)
app.add_typer(keys.keys, name="keys", rich_help_panel=USERS)
app.add_typer(quotas.quotas, name="quotas", rich_help_panel=USERS)
_add(USERS, usage.usage, "Show requests, tokens and device time.", "mlxmesh usage --by user,day")
_add(USERS, usage.audit, "Show who changed users, keys and quotas.", "mlxmesh audit -n 20")
_add(USERS, sign_in.login, "Sign in with a password.", "mlxmesh login ada")
_add(USERS, sign_in.logout, "End the stored session or key.", "mlxmesh logout")
_add(USERS, sign_in.whoami, "Show as whom commands call the mesh.", "mlxmesh whoami")

_add(
    DESKTOP,
    install.install,
    "Run the mesh as a service of this host.",
    "mlxmesh install --dry-run",
)
_add(DESKTOP, install.uninstall, "Stop and remove that service.", "mlxmesh uninstall")
_add(DESKTOP, upgrade.upgrade, "Install a newer version.", "mlxmesh upgrade --check")
_add(DESKTOP, console.open_console, "Open the console.", "mlxmesh open --print", name="open")
_add(DESKTOP, menubar.menubar, "Show the mesh in the menu bar (macOS).", "mlxmesh menubar")
_add(
    DESKTOP,
    connect.connect_agent,
    "Point a coding agent at the mesh.",
    "mlxmesh connect claude-code --model qwen",
    name="connect",
)
_add(
    DESKTOP,
    shell_completion.completion,
    "Print or install shell completion.",
    "mlxmesh completion zsh --install",
)
_add(DESKTOP, help_topics.explain, "Explain a topic.", "mlxmesh help models", name="help")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mlxmesh {version('mlxmesh')}")
        raise typer.Exit


def _first_sentence(described: Callable[..., Any] | None) -> str:
    paragraph = " ".join((getattr(described, "__doc__", None) or "").split("\n\n")[0].split())
    first, dot, _ = paragraph.partition(". ")
    return first + dot.strip()


# Given whole, since a list of commands cuts a line that it has to find itself.
for _group in app.registered_groups:
    for _command in _group.typer_instance.registered_commands if _group.typer_instance else ():
        _command.short_help = _command.short_help or _first_sentence(_command.callback)


@app.callback()
def credentials(
    ca: Annotated[
        Path | None,
        typer.Option(help="CA certificate of a gateway with TLS.  [default: MLXMESH_CA]"),
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(help="Client certificate.  [default: MLXMESH_CERT]")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Key of the client certificate.  [default: MLXMESH_KEY]")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="API key; the variable keeps it out of the list of processes.  [default:"
            " MLXMESH_API_KEY, or the stored one]"
        ),
    ] = None,
    insecure_key: Annotated[
        bool,
        typer.Option(
            "--insecure-key",
            help="Send keys and passwords beyond this machine without TLS.  [default:"
            " MLXMESH_INSECURE_KEY]",
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Serve MLX language models from a mesh of small services.

    Start with `mlxmesh up`, then run `mlxmesh chat` in another terminal. These options go before
    the command. A mesh with TLS on this host needs no --ca, --cert and --key; a mesh with users
    needs `mlxmesh login` or --api-key.

    Exit codes: 0 success, 1 failure, 2 wrong usage, 3 no mesh found, 130 Ctrl-C, 141 output closed.
    """
    # Environment variables reach `session.tls_of` without an argument in every command.
    given = zip(TLS_VARIABLES, (ca, cert, key), strict=True)
    os.environ.update({name: str(path) for name, path in given if path is not None})
    if api_key is not None:
        os.environ[API_KEY_VARIABLE] = api_key
    if insecure_key:
        os.environ[INSECURE_KEY_VARIABLE] = "1"
