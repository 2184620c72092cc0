"""The command that explains topics and commands, and writes the manual page: help."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from mlxmesh_cli.commands.failures import fail, remember_json
from mlxmesh_cli.screen.output import console, is_terminal, print_json

_TOPICS = Path(__file__).parent.parent / "topics"
ORDER = (
    *("start", "models", "chat", "clients", "agents", "access", "jobs", "rollouts", "install"),
    *("hosts", "console", "tools", "troubleshooting"),
)


def complete_topic(incomplete: str) -> list[str]:
    """Topics with this prefix."""
    return [topic for topic in ORDER if topic.startswith(incomplete)]


def explain(
    ctx: typer.Context,
    topic: Annotated[
        str,
        typer.Argument(
            help="What to explain: a topic, or else a command.  [default: a list of topics]",
            autocompletion=complete_topic,
        ),
    ] = "",
    man: Annotated[
        bool, typer.Option("--man", help="Print the manual page of all commands, for man(1).")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON, errors included.", callback=remember_json)
    ] = False,
) -> None:
    """Explain a topic, such as models or jobs, in a few lines, or show the help of a command.

    A manual page: mlxmesh help --man > ~/.local/share/man/man1/mlxmesh.1
    """
    root = ctx.find_root()
    if man:
        from mlxmesh_cli.screen.manual_page import manual_page

        typer.echo(manual_page(root.command))
    elif not topic:
        _list(json=json)
    elif topic in ORDER:
        _show(topic, json=json)
    elif topic in _commands(root.command) and not json:
        root.command.main([topic, "--help"], prog_name=root.info_name, standalone_mode=False)
    else:
        fail(
            f"no topic {topic!r}; topics: {', '.join(ORDER)}; `mlxmesh --help` lists the commands",
            exit_code=2,
        )


def _commands(root: object) -> Collection[str]:
    assert isinstance(root, TyperGroup)
    return root.commands


def topic_text(topic: str) -> str:
    """The topic's markdown."""
    return (_TOPICS / f"{topic}.md").read_text(encoding="utf-8")


def _title(topic: str) -> str:
    return topic_text(topic).partition("\n")[0].removeprefix("# ")


def _list(*, json: bool) -> None:
    if json:
        print_json({"topics": {topic: _title(topic) for topic in ORDER}})
        return
    for topic in ORDER:
        typer.echo(f"{topic:<16} {_title(topic)}")
    typer.echo("\n`mlxmesh help TOPIC` explains one; `mlxmesh COMMAND --help` explains a command")


def _show(topic: str, *, json: bool) -> None:
    text = topic_text(topic)
    if json:
        print_json({"topic": topic, "text": text})
    elif is_terminal():
        from rich.markdown import Markdown

        console().print(Markdown(text))
    else:
        typer.echo(text, nl=False)
