"""Commands about models: what there is, bring one in, load, unload, name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.completion import complete_model
from mlxmesh_cli.output import print_view
from mlxmesh_cli.session import (
    Address,
    DataDir,
    Json,
    connect,
    fail,
    print_json,
    run,
    to_dict,
)

if TYPE_CHECKING:
    from mlxmesh.model.v1.model_pb2 import (
        LoadModelResponse,
        Model,
        ModelVersion,
        PullModelResponse,
    )

Reference = Annotated[
    str,
    typer.Argument(help="NAME, NAME@VERSION or NAME:ALIAS.", autocompletion=complete_model),
]
Name = Annotated[str, typer.Argument(help="The model's name.", autocompletion=complete_model)]


def list_models(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List the models, their versions and how many replicas serve."""

    async def work() -> list[Model]:
        async with connect(address, data_dir) as client:
            return await client.list_models()

    models = run(work())
    if json:
        print_json({"models": [to_dict(model) for model in models]})
        return
    if not models:
        typer.echo("no models; add one with `mlxmesh register DIRECTORY` or `mlxmesh pull`")
        return
    from mlxmesh_cli.tables import models_table

    print_view(models_table(models))


def register(
    directory: Annotated[Path, typer.Argument(help="An mlx-lm model directory.")],
    name: Annotated[str | None, typer.Option(help="Default: the directory's name.")] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Add a directory to the catalogue as a new version of a model."""
    path = directory.expanduser().resolve()
    if not path.is_dir():
        fail(f"{path} is not a directory")

    async def work() -> dict[str, Any]:
        async with connect(address, data_dir) as client:
            response = await client.register_model(name=name or path.name, directory=str(path))
            return {"name": response.model.name, "version": response.version}

    result = run(work())
    if json:
        print_json(result)
    else:
        typer.echo(f"{result['name']}@{result['version']} registered; load it with `mlxmesh load`")


def pull(
    hub_id: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    name: Annotated[str | None, typer.Option(help="Default: the hub id's last part.")] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Download a model from a hub into the catalogue. Run it again to go on after a break."""

    async def work() -> tuple[str, ModelVersion]:
        from mlxmesh_cli.progress import bytes_bar

        async with connect(address, data_dir) as client:
            with bytes_bar(f"pulling {hub_id}", quiet=json) as advance:
                last = None
                async for last in client.pull_model(hub_id, revision=revision, name=name or ""):
                    advance(last.done_bytes, last.total_bytes)
        return _final(last)

    pulled, version = run(work())
    if json:
        print_json({"name": pulled, "version": to_dict(version)})
    else:
        typer.echo(f"{pulled}@{version.version} pulled; load it with `mlxmesh load {pulled}`")


def load(
    model: Reference,
    replicas: Annotated[int, typer.Option(min=1, max=64, help="How many.")] = 1,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Load a model and wait until its replicas are ready."""

    async def work() -> tuple[str, ModelVersion]:
        from mlxmesh_cli.progress import steps_bar

        async with connect(address, data_dir) as client:
            with steps_bar(f"loading {model}", total=replicas, quiet=json) as advance:
                last = None
                async for last in client.load_model(model, replicas=replicas):
                    advance(last.version.ready_replicas)
        return _final(last)

    name, version = run(work())
    if json:
        print_json({"name": name, "version": to_dict(version)})
    else:
        typer.echo(f"{name}@{version.version} is ready ({version.ready_replicas} replicas)")


def unload(
    model: Reference, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Drain and unload every replica of a model."""

    async def work() -> ModelVersion:
        async with connect(address, data_dir) as client:
            return await client.unload_model(model)

    version = run(work())
    if json:
        print_json(to_dict(version))
    else:
        typer.echo(f"{model} (version {version.version}) is unloaded")


def delete(
    model: Reference, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Remove a version, or a whole model, from the catalogue; it must be unloaded."""

    async def work() -> None:
        async with connect(address, data_dir) as client:
            await client.delete_model(model)

    run(work())
    if json:
        print_json({"deleted": model})
    else:
        typer.echo(f"{model} is deleted")


def alias(
    name: Name,
    alias: Annotated[str, typer.Argument(help="The alias; `default` is what the bare name means.")],
    version: Annotated[int, typer.Argument(min=0, help="The version; 0 removes the alias.")],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Point NAME:ALIAS at a version."""

    async def work() -> Model:
        async with connect(address, data_dir) as client:
            return await client.set_alias(name=name, alias=alias, version=version)

    model = run(work())
    if json:
        print_json(to_dict(model))
    else:
        typer.echo(f"{name}:{alias} means version {version}" if version else f"{alias} removed")


def _final(last: PullModelResponse | LoadModelResponse | None) -> tuple[str, ModelVersion]:
    """The name and version that the last progress message carries."""
    if last is None:
        fail("the mesh answered nothing; see `mlxmesh logs model`")
    return last.name, last.version
