"""The group `shadow`: requests that are repeated at another version, and how the answers differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.completion import complete_shadow
from mlxmesh_cli.commands.model_name import EveryModel, ModelName
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.shadow_pb2 import GetShadowReportResponse, ShadowRun

shadows = typer.Typer(
    help="Repeat requests at another version and compare the answers.", no_args_is_help=True
)

ShadowId = Annotated[str, typer.Argument(help="Id of the shadow.", autocompletion=complete_shadow)]


@shadows.command("start", epilog="Example: mlxmesh shadow start qwen --to 3 --percent 10")
def start(
    name: ModelName,
    to: Annotated[int, typer.Option(min=1, help="The version that repeats the requests.")],
    from_: Annotated[
        int,
        typer.Option(
            "--from",
            min=0,
            help="Repeat requests of this version only.  [default: of every other version]",
            show_default=False,
        ),
    ] = 0,
    percent: Annotated[
        float, typer.Option(help="The part of the requests; above 0, to 100.")
    ] = 10.0,
    shadow_id: Annotated[
        str, typer.Option("--id", help="An id of your own.  [default: a new one]")
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Repeat a part of a model's requests at another version, after they were answered.

    Callers see nothing of it. A request is repeated once no other request runs on the host of that
    version, with the same input, options and seed; one that finds no room is dropped and counted.
    """

    async def work() -> ShadowRun:
        async with connect(address, data_dir) as client:
            return await client.start_shadow(
                name, to_version=to, from_version=from_, percent=percent, shadow_id=shadow_id
            )

    started = run(work())
    if json:
        print_json(to_dict(started))
        return
    source = f"{name}@{from_}" if from_ else f"every other version of {name}"
    typer.echo(f"{started.shadow_id}: repeats {percent:g} % of {source} at {name}@{to}")
    typer.echo(f"see what it finds with `mlxmesh shadow report {started.shadow_id}`")


@shadows.command("list", epilog="Example: mlxmesh shadow list qwen --json")
def list_shadows(
    name: EveryModel = "",
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List shadows, the newest first."""

    async def work() -> list[ShadowRun]:
        async with connect(address, data_dir) as client:
            return await client.list_shadows(name)

    found = [to_dict(shadow) for shadow in run(work())]
    if json:
        print_json({"shadows": found})
    elif found:
        from mlxmesh_cli.screen.shadow_tables import shadows_table

        print_view(shadows_table(found))
    else:
        of = f" of {name}" if name else ""
        typer.echo(f"no shadows{of}; start one with `mlxmesh shadow start NAME --to VERSION`")


@shadows.command("stop", epilog="Example: mlxmesh shadow stop s-1f3a9c2b7d04")
def stop(
    shadow_id: ShadowId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """End a shadow. Its report is kept."""

    async def work() -> ShadowRun:
        async with connect(address, data_dir) as client:
            return await client.stop_shadow(shadow_id)

    stopped = run(work())
    if json:
        print_json(to_dict(stopped))
    else:
        typer.echo(f"{shadow_id} has ended; `mlxmesh shadow report {shadow_id}` shows its report")


@shadows.command("report", epilog="Example: mlxmesh shadow report s-1f3a9c2b7d04 --pairs 5")
def report(
    shadow_id: ShadowId,
    pairs: Annotated[
        int, typer.Option(min=0, max=1000, help="How many of the latest pairs to show.")
    ] = 20,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show how the answers of the two versions differ.

    Each difference is that of the shadow's value less the primary's for the same request, with a
    95 % confidence sequence: it holds whenever you look. It needs 100 pairs.
    """

    async def work() -> GetShadowReportResponse:
        async with connect(address, data_dir) as client:
            return await client.get_shadow_report(shadow_id, pairs=pairs)

    shown = _named_drops(run(work()))
    if json:
        print_json(shown)
        return
    from mlxmesh_cli.screen.shadow_tables import report_view

    print_view(report_view(shown))


def _named_drops(found: GetShadowReportResponse) -> dict[str, Any]:
    """The report as JSON data; drops by words instead of numbers."""
    from mlxmesh.model.v1.shadow_pb2 import ShadowDropReason

    prefix, data = "SHADOW_DROP_REASON_", to_dict(found)
    known = ShadowDropReason.values()
    data["drops"] = {
        ShadowDropReason.Name(ShadowDropReason.ValueType(number)).removeprefix(prefix).lower()
        if number in known
        else str(number): count
        for number, count in sorted(found.drops.items())
    }
    return data
