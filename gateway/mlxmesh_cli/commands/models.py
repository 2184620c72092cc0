"""Commands about models: list, add, load, unload, delete, alias. The list is in a group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.completion import complete_model, complete_profile
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.kinds import Kind, KindOption, to_kind
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.hub_pb2 import Download
    from mlxmesh.model.v1.model_pb2 import (
        ImportModelResponse,
        LoadModelResponse,
        Model,
        ModelVersion,
        PullModelResponse,
    )

Reference = Annotated[
    str,
    typer.Argument(help="NAME, NAME@VERSION or NAME:ALIAS.", autocompletion=complete_model),
]
Name = Annotated[str, typer.Argument(help="Name of the model.", autocompletion=complete_model)]
GgufDtype = Annotated[
    str,
    typer.Option(
        metavar="float32|float16|bfloat16",
        help="Convert every weight of a GGUF file to this type.  [default: keep quantized weights]",
    ),
]


def list_models(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List the models, their versions and their ready replicas."""

    async def work() -> list[Model]:
        async with connect(address, data_dir) as client:
            return await client.list_models()

    models = run(work())
    if json:
        print_json({"models": [to_dict(model) for model in models]})
        return
    if not models:
        typer.echo("no models; add one with `mlxmesh register` or `mlxmesh pull`")
        return
    from mlxmesh_cli.screen.tables import models_table

    print_view(models_table(models))


def register(
    path: Annotated[Path, typer.Argument(help="An mlx-lm model directory, or a GGUF file.")],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model.  [default: the name of the directory or file]"),
    ] = None,
    dtype: GgufDtype = "",
    kind: KindOption = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Add a model to the catalogue as a new version: a directory, or a GGUF file.

    A directory is used in place. A GGUF file is converted without loss into the data directory;
    architectures llama, qwen2 and qwen3, types F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are supported.
    """
    path = path.expanduser().resolve()
    if path.is_file():
        from mlxmesh_launcher.options import model_name

        _import(path, name or model_name(path), dtype, kind, address, data_dir, json)
        return
    if not path.is_dir():
        fail(f"{path} is neither a directory nor a file")
    if dtype:
        fail("--dtype applies to GGUF files only")

    async def work() -> dict[str, Any]:
        async with connect(address, data_dir) as client:
            response = await client.register_model(
                name=name or path.name, directory=str(path), kind=to_kind(kind)
            )
            return {"name": response.model.name, "version": response.version}

    result = run(work())
    if json:
        print_json(result)
    else:
        typer.echo(f"{result['name']}@{result['version']} registered; load it with `mlxmesh load`")


def _import(
    file: Path,
    name: str,
    dtype: str,
    kind: Kind | None,
    address: str | None,
    data_dir: Path | None,
    json: bool,
) -> None:
    async def work() -> tuple[str, ModelVersion]:
        from mlxmesh_cli.screen.progress import bytes_bar

        async with connect(address, data_dir) as client:
            with bytes_bar(f"converting {file.name}", quiet=json) as advance:
                last = None
                importing = client.import_model(
                    name=name, file=str(file), dtype=dtype, kind=to_kind(kind)
                )
                async for last in importing:
                    advance(last.done_bytes, last.total_bytes)
        return _final(last)

    imported, version = run(work())
    if json:
        print_json({"name": imported, "version": version.version})
    else:
        typer.echo(f"{imported}@{version.version} registered; load it with `mlxmesh load`")


def pull(
    repo_id: Annotated[str, typer.Argument(help="Repository on the hub, OWNER/NAME.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    name: Annotated[
        str | None, typer.Option(help="Name of the model.  [default: the repository's NAME]")
    ] = None,
    file: Annotated[
        str, typer.Option(metavar="X.gguf", help="GGUF file of the repository to convert.")
    ] = "",
    dtype: GgufDtype = "",
    kind: KindOption = None,
    background: Annotated[
        bool,
        typer.Option("--background", help="Return at once; `mlxmesh downloads` shows it."),
    ] = False,
    load: Annotated[
        bool, typer.Option("--load", help="With --background: load it once it is there.")
    ] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Download a model from a hub into the catalogue. Run it again to resume a download."""
    if "/" not in repo_id:
        raise typer.BadParameter("repo_id must be OWNER/NAME; `mlxmesh models search` finds some")
    if load and not background:
        raise typer.BadParameter("--load requires --background")
    if kind and background:
        raise typer.BadParameter("--kind cannot be given with --background")
    if background:
        source: dict[str, Any] = {
            "revision": revision,
            "name": name or "",
            "file": file,
            "dtype": dtype,
        }
        _pull_in_background(repo_id, source, load, address, data_dir, json)
        return

    async def work() -> tuple[str, ModelVersion]:
        from mlxmesh_cli.screen.progress import bytes_bar

        async with connect(address, data_dir) as client:
            with bytes_bar(f"pulling {repo_id}", quiet=json) as advance:
                last = None
                pulling = client.pull_model(
                    repo_id,
                    revision=revision,
                    name=name or "",
                    file=file,
                    dtype=dtype,
                    kind=to_kind(kind),
                )
                async for last in pulling:
                    advance(last.done_bytes, last.total_bytes)
        return _final(last)

    pulled, version = run(work())
    if json:
        print_json({"name": pulled, "version": to_dict(version)})
    else:
        typer.echo(f"{pulled}@{version.version} pulled; load it with `mlxmesh load {pulled}`")


def _pull_in_background(
    repo_id: str,
    source: dict[str, Any],
    load: bool,
    address: str | None,
    data_dir: Path | None,
    json: bool,
) -> None:
    async def work() -> Download:
        async with connect(address, data_dir) as client:
            return await client.start_download(repo_id, load=load, **source)

    started = run(work())
    if json:
        print_json(to_dict(started))
    else:
        one = started.download_id
        typer.echo(f"{one} downloads {repo_id}; follow it with `mlxmesh downloads watch {one}`")


def load(
    model: Reference,
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Number of replicas.")] = 1,
    profile: Annotated[
        str,
        typer.Option(
            metavar="NAME[@REVISION]",
            help="Profile to load it with; `default` for none.  [default: as it was last loaded]",
            autocompletion=complete_profile,
        ),
    ] = "",
    group: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=16,
            help="Ranks that compute each replica together, on as many hosts as there are;"
            " 1 for one process.  [default: as the profile says]",
        ),
    ] = None,
    group_split: Annotated[
        str | None,
        typer.Option(
            metavar="auto|tensor|pipeline",
            help="How ranks divide the model: every layer, or the layers among them."
            "  [default: as the profile says]",
        ),
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Load a model and wait until its replicas are ready.

    A host that lacks the model's files fetches them from the mesh first.
    Replicas that were loaded with other settings are replaced, one after another.
    Later loads keep --group and --group-split unless they set others or name a profile.
    """

    async def work() -> tuple[str, ModelVersion]:
        from mlxmesh_cli.screen.progress import steps_bar

        async with connect(address, data_dir) as client:
            with steps_bar(f"loading {model}", total=replicas, quiet=json) as advance:
                last = None
                loading = client.load_model(
                    model,
                    replicas=replicas,
                    profile=profile,
                    group_size=group,
                    group_split=group_split,
                )
                async for last in loading:
                    advance(last.version.ready_replicas, _fetches(last.version))
        return _final(last)

    name, version = run(work())
    if json:
        print_json({"name": name, "version": to_dict(version)})
    else:
        replicas = version.ready_replicas
        noun = "replica" if replicas == 1 else "replicas"
        with_profile = ""
        if version.profile:
            with_profile = f", profile {version.profile}@{version.profile_revision}"
        of_ranks = f" of {version.group_size} ranks" if version.group_size > 1 else ""
        ready = f"{replicas} {noun}{of_ranks}{with_profile}"
        typer.echo(f"{name}@{version.version} is ready ({ready})")
        from mlxmesh_cli.screen.tables import group_words

        for words in group_words(to_dict(version)):
            typer.echo(words)
        for runtime, why in sorted(version.rejections.items()):
            typer.echo(f"rejected by {runtime}: {why.message}", err=True)


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
    alias: Annotated[
        str, typer.Argument(help="Alias; `default` is the version that the bare name means.")
    ],
    version: Annotated[int, typer.Argument(min=0, help="Version; 0 removes the alias.")],
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


def _fetches(version: ModelVersion) -> str:
    """The runtimes that fetch the files, and how far they are."""
    from mlxmesh_cli.screen.tables import fetch_words

    found = sorted(version.fetches.items())
    return "; ".join(fetch_words(one, each.done_bytes, each.total_bytes) for one, each in found)


def _final(
    last: PullModelResponse | ImportModelResponse | LoadModelResponse | None,
) -> tuple[str, ModelVersion]:
    """The name and version that the last progress message carries."""
    if last is None:
        fail("the model service sent no response; see `mlxmesh logs model`")
    return last.name, last.version
