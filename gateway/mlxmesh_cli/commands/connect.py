"""The command that points coding agents at the mesh: connect."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.completion import complete_model
from mlxmesh_cli.commands.confirmation import Yes, confirm
from mlxmesh_cli.commands.failures import fail, reported_errors
from mlxmesh_cli.commands.session import Address, DataDir, Json, run
from mlxmesh_cli.screen.output import print_json, say

if TYPE_CHECKING:
    from mlxmesh_cli.agents.agents import Agent, MeshAddress
    from mlxmesh_cli.agents.connection import Connection


class AgentName(StrEnum):
    """Agents that can be connected."""

    CLAUDE_CODE = "claude-code"
    CODEX = "codex"
    OPENCODE = "opencode"
    CONTINUE = "continue"
    ZED = "zed"


def connect_agent(
    agent: Annotated[
        AgentName, typer.Argument(help="claude-code, codex, opencode, continue or zed.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Model that it uses.  [default: the only one, or the only loaded one]",
            autocompletion=complete_model,
        ),
    ] = None,
    key: Annotated[str, typer.Option(help="API key that it sends, for a mesh with users.")] = "",
    create_key: Annotated[
        bool, typer.Option("--create-key", help="Create a key for it, limited to the model.")
    ] = False,
    url: Annotated[
        str,
        typer.Option(help="URL of the gateway's HTTP.  [default: that of the mesh on this host]"),
    ] = "",
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the configuration; write nothing.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Restore the configuration as it was.")
    ] = False,
    yes: Yes = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Write the configuration that points a coding agent at this mesh.

    It shows what it changes and asks first. Comments and other settings stay; --undo restores the
    file, or takes out only what was set here if the file was edited since.
    """
    from mlxmesh_cli.agents.agents import AGENTS
    from mlxmesh_cli.agents.connection import Connection
    from mlxmesh_cli.agents.records import RecordFile

    chosen = AGENTS[agent.value]
    with reported_errors():
        file = chosen.file(os.environ, Path.home())
        connection = Connection(chosen.form(), file, RecordFile(chosen.name))
        if undo:
            _undo(connection, yes=yes, json=json)
            return
    if key and create_key:
        fail("--key and --create-key exclude each other", exit_code=2)
    mesh = _mesh(model, key, url, address, data_dir, needs_key=not create_key)
    if print_only:
        _print(chosen, file, mesh, json=json)
        return
    with reported_errors():
        connection.planned(chosen.settings(mesh))  # before a key is made for nothing
    if create_key:
        mesh = _with_new_key(chosen, mesh, address, data_dir, yes=yes)
    with reported_errors():
        _connect(chosen, connection, mesh, yes=yes or create_key, json=json)


def _mesh(
    model: str | None,
    key: str,
    url: str,
    address: str | None,
    data_dir: Path | None,
    *,
    needs_key: bool,
) -> MeshAddress:
    from mlxmesh_cli.commands.agent_address import agent_address

    return run(agent_address(model, key, url, address, data_dir, needs_key=needs_key))


def _with_new_key(
    agent: Agent, mesh: MeshAddress, address: str | None, data_dir: Path | None, *, yes: bool
) -> MeshAddress:
    import socket
    from dataclasses import replace

    from mlxmesh_cli.commands.access_calls import call_access

    name = f"{agent.name} on {socket.gethostname()}"
    if not confirm(f"create the key {name!r} for {mesh.model}, and write it?", yes=yes):
        fail("nothing was changed", reason="CANCELLED")
    model = mesh.model.partition(":")[0].partition("@")[0]
    created = call_access(lambda access: access.create_key(name, models=[model]), address, data_dir)
    say(
        f"created {created.key.key_id}; `mlxmesh keys revoke {created.key.key_id}` ends it",
        err=True,
    )
    return replace(mesh, key=created.secret)


def _print(agent: Agent, file: Path, mesh: MeshAddress, *, json: bool) -> None:
    from mlxmesh_cli.agents.change import apply

    text, _ = apply(agent.form(), "", agent.settings(mesh))
    notes = list(agent.notes(mesh))
    if json:
        print_json({"file": str(file), "content": text, "notes": notes})
        return
    say(f"# {file}", err=True)
    typer.echo(text, nl=not text.endswith("\n"))
    for note in notes:
        say(f"# {note}", err=True)


def _connect(
    agent: Agent, connection: Connection, mesh: MeshAddress, *, yes: bool, json: bool
) -> None:
    edit = connection.planned(agent.settings(mesh))
    if edit.changes:
        if not json:
            typer.echo(edit.diff())
        question = "write" if edit.now is None else "change"
        if not confirm(f"{question} {edit.file}?", yes=yes):
            fail("nothing was changed", reason="CANCELLED")
        connection.connect(edit)
    notes = list(agent.notes(mesh))
    if json:
        print_json({"file": str(edit.file), "changed": edit.changes, "notes": notes})
        return
    undone = f"; `mlxmesh connect {agent.name} --undo` restores it"
    typer.echo(f"{edit.file}: " + (f"written{undone}" if edit.changes else "nothing to change"))
    for note in notes:
        typer.echo(note)


def _undo(connection: Connection, *, yes: bool, json: bool) -> None:
    edit = connection.planned_undo()
    if edit.changes:
        if not json:
            typer.echo(edit.diff())
        question = "remove" if edit.then is None else "restore"
        if not confirm(f"{question} {edit.file}?", yes=yes):
            fail("nothing was changed", reason="CANCELLED")
    connection.undo(edit)
    if json:
        print_json({"file": str(edit.file), "changed": edit.changes})
    else:
        typer.echo(f"{edit.file}: {'removed' if edit.then is None else 'restored'}")
