"""The group `models`: the list, the policies of models, and how the output of one is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mlxmesh_cli.commands.completion import complete_model
from mlxmesh_cli.commands.downloads import search
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.kinds import is_encoder, kind_lines
from mlxmesh_cli.commands.models import Reference, list_models
from mlxmesh_cli.commands.policy_options import (
    Idle,
    LoadTimeout,
    MaxReplicas,
    MinReplicas,
    OnDemand,
    Pin,
    PriceCached,
    PriceCompletion,
    PricePrompt,
    PriceSecond,
    parse_seconds,
    policy_changes,
    policy_lines,
)
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.commands.upstreams import add_upstream, upstream_lines
from mlxmesh_cli.screen.output import print_json, to_dict

if TYPE_CHECKING:
    from mlxmesh.generation.v1.generation_pb2 import GetOutputFormatResponse
    from mlxmesh.model.v1.model_pb2 import Model, ModelVersion
    from mlxmesh.model.v1.policy_pb2 import ModelPolicy

models = typer.Typer(
    help="List the models; show or set how they are loaded and read.",
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
    """List the models with their versions; show or set how one is loaded, priced and read."""
    if context.invoked_subcommand is None:
        list_models(address, data_dir, json)
    elif address or data_dir or json:
        raise typer.BadParameter(f"put options behind `{context.invoked_subcommand}`")


models.command(
    "search",
    short_help="Search the hub for models.",
    epilog="Example: mlxmesh models search qwen3 --author mlx-community --sort downloads",
)(search)


models.command(
    "add-upstream",
    short_help="Add a model of an OpenAI-compatible server.",
    epilog="Example: mlxmesh models add-upstream far --url https://host/v1 --model gpt-x"
    " --key-env FAR_KEY",
)(add_upstream)


@models.command(
    "show",
    short_help="Show its policy, and how its output is read.",
    epilog="Example: mlxmesh models show qwen@2",
)
def show(
    model: Reference, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Show the policy of a model, and how its output is read, and why: tool calls and reasoning.

    Of an upstream: where it is, what it takes, and its state. Of a model of the kinds embedding
    and rerank: its kind, its dimensions and its longest input.
    """

    async def work() -> tuple[ModelVersion | GetOutputFormatResponse, ModelPolicy]:
        async with connect(address, data_dir) as client:
            found = await client.get_model(model)
            version = _only(found)
            if version is not None and (version.HasField("upstream") or is_encoder(version)):
                return version, found.policy
            return await client.get_output_format(model), found.policy

    chosen, policy = run(work())
    if not hasattr(chosen, "tool_reason"):
        _show_version(cast("ModelVersion", chosen), policy, json)
        return
    chosen = cast("GetOutputFormatResponse", chosen)
    if json:
        print_json({**to_dict(chosen), "policy": to_dict(policy)})
        return
    typer.echo(f"tool calls  {chosen.tool_format or 'none'}: {chosen.tool_reason}")
    typer.echo(f"reasoning   {chosen.reasoning_format or 'none'}: {chosen.reasoning_reason}")
    if chosen.reasoning_switch or chosen.reasoning_format:
        switch = "can" if chosen.reasoning_switch else "cannot"
        effort = "takes an effort" if chosen.reasoning_effort else "takes no effort"
        typer.echo(f"            requests {switch} switch it on and off; the template {effort}")
    for line in policy_lines(policy):
        typer.echo(line)


@models.command(
    "set",
    short_help="Set how it is loaded, scaled, priced and read.",
    epilog="Example: mlxmesh models set qwen --idle 15m --max-replicas 3 --tool-format hermes",
)
def set_model(
    model: Versions,
    tool_format: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help=f"Format of tool calls. {_CHOICES}"),
    ] = None,
    reasoning_format: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help=f"Format of reasoning. {_CHOICES}"),
    ] = None,
    load_on_demand: OnDemand = None,
    load_timeout: LoadTimeout = None,
    idle: Idle = None,
    pin: Pin = None,
    min_replicas: MinReplicas = None,
    max_replicas: MaxReplicas = None,
    price_prompt: PricePrompt = None,
    price_cached: PriceCached = None,
    price_completion: PriceCompletion = None,
    price_second: PriceSecond = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Set how a model is loaded, scaled and unloaded, what its use costs, and how its output is
    read, instead of what its chat template suggests. What is not given stays as it is.

    A NAME alone means every version there is. Requests notice it at once; no model is reloaded.
    """
    policy = _given(
        load_on_demand=load_on_demand,
        load_timeout_s=_seconds(load_timeout, "--load-timeout"),
        idle_unload_s=_seconds(idle, "--idle"),
        pinned=pin,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        price_prompt=price_prompt,
        price_cached=price_cached,
        price_completion=price_completion,
        price_second=price_second,
    )
    formats = _given(tool_format=_setting(tool_format), reasoning_format=_setting(reasoning_format))
    if not policy and not formats:
        fail("give --tool-format, --idle or another option; `mlxmesh models set --help` lists them")

    async def work() -> Model:
        from mlxmesh_shared.errors import InvalidArgument
        from mlxmesh_shared.reference import ModelReference

        reference = ModelReference.parse(model)
        if reference.alias is not None:
            raise InvalidArgument(f"{model} is an alias; give NAME or NAME@VERSION", field="model")
        if policy and reference.version is not None:
            raise InvalidArgument(
                f"a policy is for all versions; give {reference.name} without a version",
                field="model",
            )
        async with connect(address, data_dir) as client:
            changed = await client.get_model(reference.name)
            if policy:
                changes = policy_changes(policy, changed.policy)
                changed = await client.set_model_policy(reference.name, changes)
            if formats:
                changed = await client.set_output_format(
                    name=reference.name, version=reference.version or 0, **formats
                )
            return changed

    changed = run(work())
    if json:
        print_json(to_dict(changed))
    else:
        typer.echo(f"{model} is set; check it with `mlxmesh models show {model}`")


def _only(model: Model) -> ModelVersion | None:
    """The version that was asked for: the only one there is, or that of the bare name."""
    if len(model.versions) == 1:
        return model.versions[0]
    wanted = (each for each in model.versions if each.version == model.default_version)
    return next(wanted, None)


def _show_version(version: ModelVersion, policy: ModelPolicy, json: bool) -> None:
    """Shows a version without output formats: an upstream's, or one that encodes."""
    upstream = version.HasField("upstream")
    if json:
        kind = {"kind": "upstream"} if upstream else {}
        print_json({**to_dict(version), **kind, "policy": to_dict(policy)})
        return
    lines = upstream_lines(version) if upstream else kind_lines(version)
    for line in (*lines, *policy_lines(policy)):
        typer.echo(line)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _seconds(text: str | None, option: str) -> int | None:
    return None if text is None else parse_seconds(text, option)


def _setting(given: str | None) -> str | None:
    return "" if given == _AUTO else given
