"""Commands about ensembles: list, show, set, delete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.completion import complete_model
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.ensemble_pb2 import Ensemble, EnsembleRecipe

ensembles = typer.Typer(
    help="Manage ensembles: names that answer with several models.",
    epilog="Example: mlxmesh ensembles list",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="Name of the ensemble.", autocompletion=complete_model)]


def _models(meaning: str) -> typer.models.OptionInfo:
    return typer.Option(metavar="MODEL,MODEL", help=meaning, autocompletion=complete_model)


@ensembles.command("list", epilog="Example: mlxmesh ensembles list --json")
def list_ensembles(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List the ensembles and their recipes."""

    async def work() -> list[Ensemble]:
        async with connect(address, data_dir) as client:
            return await client.list_ensembles()

    found = run(work())
    if json:
        print_json({"ensembles": [to_dict(each) for each in found]})
        return
    if not found:
        typer.echo("no ensembles; add one with `mlxmesh ensembles set`")
        return
    from mlxmesh_cli.screen.ensembles import ensembles_table

    print_view(ensembles_table(found))


@ensembles.command("show", epilog="Example: mlxmesh ensembles show chat")
def show(name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show the recipe of an ensemble."""

    async def work() -> Ensemble:
        async with connect(address, data_dir) as client:
            return await client.get_ensemble(name)

    ensemble = run(work())
    if json:
        print_json(to_dict(ensemble))
        return
    from mlxmesh_cli.screen.ensembles import recipe_lines

    for line in recipe_lines(ensemble):
        typer.echo(line)


@ensembles.command(
    "set",
    epilog="Example: mlxmesh ensembles set chat --cascade small,big --min-logprob -0.5",
)
def set_ensemble(
    name: Name,
    fallback: Annotated[
        str | None, _models("The first of these that can answer does; the preferred first.")
    ] = None,
    first_token_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.001,
            max=3600,
            help="With --fallback: how long each model may take for its first token.  [default: no"
            " limit]",
        ),
    ] = None,
    cascade: Annotated[
        str | None, _models("The first of these that is confident answers; the smallest first.")
    ] = None,
    min_logprob: Annotated[
        float | None,
        typer.Option(
            min=-100,
            max=0,
            help="With --cascade: the mean log-probability of an answer that is confident.",
        ),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(help="With --cascade: JSON Schema of an answer that is confident."),
    ] = None,
    require_valid: Annotated[
        bool | None,
        typer.Option(
            help="With --cascade: whether an answer must be complete and satisfy the request."
            "  [default: yes]"
        ),
    ] = None,
    vote: Annotated[
        str | None, _models("Each of these answers; what most agree on is given.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="With --vote: compare only the last match, or its first group (RE2).",
        ),
    ] = None,
    best_of: Annotated[
        str | None, _models("Each of these answers; what --judge scores highest is given.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="With --best-of: the model that scores.",
            autocompletion=complete_model,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, max=16, help="With --vote, --best-of: answers of each.  [default: 1]"),
    ] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Create an ensemble, or replace its recipe. Its name is then used like that of a model.

    Give one of --fallback, --cascade, --vote and --best-of, with models separated by commas: NAME,
    NAME@VERSION or NAME:ALIAS.
    """
    from mlxmesh_cli.commands.recipes import RecipeOptions, recipe_of

    options = RecipeOptions(
        fallback=fallback,
        cascade=cascade,
        vote=vote,
        best_of=best_of,
        first_token_timeout_s=first_token_timeout,
        min_logprob=min_logprob,
        schema=_read(schema),
        require_valid=require_valid,
        pattern=pattern,
        judge=judge,
        samples=samples,
        description=description,
    )
    try:
        recipe = recipe_of(options)
    except ValueError as error:
        fail(str(error))
    _set(name, recipe, address, data_dir, json)


def _set(
    name: str, recipe: EnsembleRecipe, address: str | None, data_dir: Path | None, json: bool
) -> None:
    async def work() -> Ensemble:
        async with connect(address, data_dir) as client:
            return await client.set_ensemble(name, recipe)

    ensemble = run(work())
    if json:
        print_json(to_dict(ensemble))
    else:
        typer.echo(f"{name} is set; try `mlxmesh generate Hello -m {name}`")


@ensembles.command("delete", epilog="Example: mlxmesh ensembles delete chat")
def delete(
    name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Delete an ensemble. Its models stay."""

    async def work() -> None:
        async with connect(address, data_dir) as client:
            await client.delete_ensemble(name)

    run(work())
    if json:
        print_json({"deleted": name})
    else:
        typer.echo(f"{name} is deleted")


def _read(schema: Path | None) -> str | None:
    if schema is None:
        return None
    try:
        return schema.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"cannot read {schema}: {error}")
