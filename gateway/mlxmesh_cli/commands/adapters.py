"""The group `adapters`: add, list, show and remove LoRA adapters of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.completion import complete_model_name
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.adapter_pb2 import Adapter

adapters = typer.Typer(
    help="Manage LoRA adapters of models.",
    epilog="Example: mlxmesh adapters list",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="Name of the adapter.")]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Name of its model.", autocompletion=complete_model_name),
]


@adapters.command(
    "add", epilog="Example: mlxmesh adapters add french ~/adapters/french --model qwen"
)
def add(
    name: Name,
    directory: Annotated[
        Path,
        typer.Argument(
            help="Directory with adapter_config.json, and adapters.safetensors (mlx-lm) or"
            " adapter_model.safetensors (PEFT), on the model service's host."
        ),
    ],
    model: Model,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an adapter of this name.")
    ] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Examine a directory, and add its adapter to a model.

    The files are copied: what happens to the directory later changes nothing. Requests name the
    adapter at once, without a restart; those that run keep the one that they began with.

    Further examples: mlxmesh adapters add french ./french-2 --model qwen --replace

    mlxmesh generate "Bonjour" --model qwen --adapter french
    """
    path = directory.expanduser().resolve()

    async def work() -> Adapter:
        async with connect(address, data_dir) as client:
            return await client.adapters.add(name, path, model=model, replace=replace)

    added = run(work())
    if json:
        print_json(to_dict(added))
        return
    typer.echo(
        f"{added.model}:{added.name} is added; use it with `mlxmesh generate --model {added.model}"
        f" --adapter {added.name}`"
    )


@adapters.command("list", epilog="Example: mlxmesh adapters list --model qwen --json")
def list_adapters(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Only those of this model.  [default: all]",
            autocompletion=complete_model_name,
        ),
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List the adapters by model and name."""

    async def work() -> list[Adapter]:
        async with connect(address, data_dir) as client:
            return await client.adapters.list(model=model or "")

    found = run(work())
    if json:
        print_json({"adapters": [to_dict(each) for each in found]})
        return
    if not found:
        typer.echo("no adapters; add one with `mlxmesh adapters add`")
        return
    from mlxmesh_cli.screen.adapter_tables import adapters_table

    print_view(adapters_table(found))


@adapters.command("show", epilog="Example: mlxmesh adapters show french --model qwen")
def show(
    name: Name, model: Model, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Show one adapter: its format, rank, modules, digest and directory."""

    async def work() -> Adapter:
        async with connect(address, data_dir) as client:
            return await client.adapters.get(name, model=model)

    adapter = run(work())
    if json:
        print_json(to_dict(adapter))
        return
    from mlxmesh_cli.screen.adapter_tables import adapter_lines

    for line in adapter_lines(adapter):
        typer.echo(line)


@adapters.command("remove", epilog="Example: mlxmesh adapters remove french --model qwen")
def remove(
    name: Name, model: Model, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Remove an adapter; generations that run finish with it."""

    async def work() -> None:
        async with connect(address, data_dir) as client:
            await client.adapters.remove(name, model=model)

    run(work())
    if json:
        print_json({"removed": f"{model}:{name}"})
    else:
        typer.echo(f"{model}:{name} is removed")
