"""Options of the commands about jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from mlxmesh_cli.commands.completion import complete_job
from mlxmesh_cli.commands.times import FORMS, future_time

if TYPE_CHECKING:
    from mlxmesh_client.jobs import JobOptions

JobId = Annotated[
    str, typer.Argument(metavar="ID", help="Id of the job.", autocompletion=complete_job)
]
NewJobId = Annotated[
    str, typer.Option("--id", help="Id, so that the command can be repeated.  [default: new]")
]
Queue = Annotated[
    str, typer.Option(help="Queue.  [default: generation, batch, or the connector's name]")
]
Priority = Annotated[
    int, typer.Option(min=-100, max=100, help="Higher ones start first, -100 to 100.")
]
After = Annotated[
    datetime | None,
    typer.Option("--not-before", parser=future_time, metavar="TIME", help=f"Start: {FORMS}."),
]
Before = Annotated[
    datetime | None,
    typer.Option("--deadline", parser=future_time, metavar="TIME", help=f"Latest end: {FORMS}."),
]
Attempts = Annotated[
    int,
    typer.Option(
        min=0, max=100, show_default=False, help="Attempts before it fails.  [default: 5]"
    ),
]
AttemptTimeout = Annotated[
    int,
    typer.Option(
        "--attempt-timeout",
        min=0,
        metavar="SECONDS",
        show_default=False,
        help="How long one attempt may take.  [default: 3600]",
    ),
]
JobLabel = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label; may be repeated.")
]


def job_options(
    job_id: str,
    queue: str,
    priority: int,
    not_before: datetime | None,
    deadline: datetime | None,
    attempts: int,
    attempt_timeout_s: int,
    label: list[str] | None,
) -> JobOptions:
    """The options that were given."""
    given: dict[str, Any] = {
        "job_id": job_id,
        "queue": queue,
        "priority": priority,
        "not_before": not_before,
        "deadline": deadline,
        "max_attempts": attempts,
        "attempt_timeout_s": attempt_timeout_s,
        "labels": pairs_of(label, "--label"),
    }
    return {name: value for name, value in given.items() if value}  # pyright: ignore[reportReturnType]


def pairs_of(texts: list[str] | None, option: str) -> dict[str, str]:
    """KEY=VALUE, each key once. Raises: BadParameter."""
    pairs: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key or key in pairs:
            raise typer.BadParameter("must be KEY=VALUE, each key once", param_hint=option)
        pairs[key] = value
    return pairs


class _Enum(Protocol):
    def Value(self, name: str) -> Any: ...  # protobuf's name
    @property
    def DESCRIPTOR(self) -> Any: ...


def enum_values(
    enum: _Enum, words: list[str] | None, known: Sequence[str], option: str
) -> list[Any]:
    """The values of a contract's enum by their short words. Raises: BadParameter."""
    unknown = [word for word in words or () if word not in known]
    if unknown:
        message = f"{unknown[0]!r} is none of {', '.join(known)}"
        raise typer.BadParameter(message, param_hint=option)
    prefix = enum.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    return [enum.Value(f"{prefix}{word.upper()}") for word in words or ()]
