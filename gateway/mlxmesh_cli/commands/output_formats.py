"""The group `models`: the list of models, and how the output of one is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.completion import complete_model
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.models import Reference, list_models
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, to_dict

if TYPE_CHECKING:
    from mlxmesh.generation.v1.generation_pb2 import GetOutputFormatResponse
    from mlxmesh.model.v1.model_pb2 import Model

models = typer.Typer(
    help="List the models; show or set how one's output is read.",
    epilog="Example: mlxmesh models --json",
    invoke_without_command=True,
)

_AUTO = "auto"
_CHOICES = "`auto` leaves it to the chat template, `none` switches it off."
Versions = Annotated[
    str, typer.Argument(help="NAME or NAME@VERSION.", autocompletion=complete_model)
]


@models.callback()
def list_or_change(
    context: typer.Context, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """List the models, their versions and their ready replicas; show or set how one is read."""
    if context.invoked_subcommand is None:
        list_models(address, data_dir, json)
    elif address or data_dir or json:
        raise typer.BadParameter(f"put options behind `{context.invoked_subcommand}`")


@models.command(
    "show",
    short_help="Show how its output is read, and why.",
    epilog="Example: mlxmesh models show qwen@2",
)
def show(
    model: Reference, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Show how the output of a model is read, and why: its tool calls and its reasoning."""

    async def work() -> GetOutputFormatResponse:
        async with connect(address, data_dir) as client:
            return await client.get_output_format(model)

    chosen = run(work())
    if json:
        print_json(to_dict(chosen))
        return
    typer.echo(f"tool calls  {chosen.tool_format or 'none'}: {chosen.tool_reason}")
    typer.echo(f"reasoning   {chosen.reasoning_format or 'none'}: {chosen.reasoning_reason}")
    if chosen.reasoning_switch or chosen.reasoning_format:
        switch = "can" if chosen.reasoning_switch else "cannot"
        effort = "takes an effort" if chosen.reasoning_effort else "takes no effort"
        typer.echo(f"            requests {switch} switch it on and off; the template {effort}")


@models.command(
    "set",
    short_help="Set how its output is read.",
    epilog="Example: mlxmesh models set qwen --tool-format hermes --reasoning-format none",
)
def set_formats(
    model: Versions,
    tool_format: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help=f"Format of tool calls. {_CHOICES}"),
    ] = None,
    reasoning_format: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help=f"Format of reasoning. {_CHOICES}"),
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Set how the output of a model is read, instead of what its chat template suggests.

    A NAME alone means every version there is. Requests notice it at once; no model is reloaded.
    """
    if tool_format is None and reasoning_format is None:
        fail("give --tool-format, --reasoning-format or both")

    async def work() -> Model:
        from mlxmesh_shared.errors import InvalidArgument
        from mlxmesh_shared.reference import ModelReference

        reference = ModelReference.parse(model)
        if reference.alias is not None:
            raise InvalidArgument(f"{model} is an alias; give NAME or NAME@VERSION", field="model")
        async with connect(address, data_dir) as client:
            return await client.set_output_format(
                name=reference.name,
                version=reference.version or 0,
                tool_format=_setting(tool_format),
                reasoning_format=_setting(reasoning_format),
            )

    changed = run(work())
    if json:
        print_json(to_dict(changed))
    else:
        typer.echo(f"{model} is set; check it with `mlxmesh models show {model}`")


def _setting(given: str | None) -> str | None:
    return "" if given == _AUTO else given
