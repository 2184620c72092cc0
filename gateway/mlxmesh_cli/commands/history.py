"""The command about what a model has done: history."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from mlxmesh_cli.commands.completion import complete_model
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.commands.times import FORMS, past_time
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.history_pb2 import HistoryPeriod

Resolution = Literal["hour", "day", "total"]
RESOLUTIONS = ("hour", "day", "total")


def _resolution(word: str | None) -> str:
    """Typer callback of --by."""
    if word and word not in RESOLUTIONS:
        raise typer.BadParameter(f"must be hour, day or total, not {word}")
    return word or ""


def history(
    model: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Model reference.", autocompletion=complete_model),
    ],
    since: Annotated[
        datetime | None,
        typer.Option(parser=past_time, metavar="TIME", help=f"Begin: {FORMS}.  [default: 24h]"),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            parser=past_time, metavar="TIME", help="End, in the same forms.  [default: now]"
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Sum by hour, day or total.  [default: hour for up to two days, else day]",
            callback=_resolution,
            autocompletion=lambda: list(RESOLUTIONS),
        ),
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show what each version of a model did, how fast, and what it cost.

    A version is NAME@2 or NAME:ALIAS; a bare NAME stands for all versions. Hours and days are in
    UTC, and those of the begin and the end count as a whole. Old hours are kept as days. A
    generation counts when it has ended, about a second later.
    """

    async def work() -> Sequence[HistoryPeriod]:
        async with connect(address, data_dir) as client:
            resolution = cast("Resolution", by or "")
            return await client.get_model_history(
                model, start=since, end=until, resolution=resolution
            )

    periods = [to_dict(period) for period in run(work())]
    if json:
        print_json({"periods": periods})
        return
    if not periods:
        typer.echo(f"no request of {model} ended in this time")
        return
    from mlxmesh_cli.screen.history_table import history_table

    print_view(history_table(periods))
