"""`mlxmesh models add-upstream`, and what `models show` says of an upstream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.model_pb2 import ModelVersion
    from mlxmesh.model.v1.upstream_pb2 import Upstream
    from mlxmesh_client import MeshClient

CAPABILITIES = (
    "chat",
    "completion",
    "embedding",
    "tools",
    "json_schema",
    "logprobs",
    "extended_sampling",
    "max_completion_tokens",
    "reasoning_effort",
)
_PREFIX = "UPSTREAM_CAPABILITY_"
_CHECK_WAIT_S = 15.0
_LOOK_S = 0.1


def add_upstream(
    name: Annotated[str, typer.Argument(help="Name of the model, new or existing.")],
    url: Annotated[
        str,
        typer.Option(help="Its base URL, up to and with /v1, such as https://api.openai.com/v1."),
    ],
    model: Annotated[str, typer.Option(help="The model's id at the server.")],
    key_env: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Environment variable with its key, of the model and generation services.",
        ),
    ] = "",
    key_file: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="File with its key, on the hosts of these services."),
    ] = None,
    takes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help=f"What it takes: {', '.join(CAPABILITIES)}; may be repeated."
            "  [default: chat, tools, json_schema]",
        ),
    ] = None,
    context_tokens: Annotated[
        int, typer.Option(min=0, help="The largest prompt plus output, for callers to know.")
    ] = 0,
    max_concurrent: Annotated[
        int,
        typer.Option(min=1, max=10_000, help="Requests at a time, of each generation service."),
    ] = 32,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Add a model of an OpenAI-compatible server to the catalogue as a new version.

    Requests to NAME then go to that server; what it does not take is refused by name. The key
    stays where it is: the mesh keeps only the name of the variable or file, and reads it for each
    request. `mlxmesh load` and `unload` switch the upstream on and off, `mlxmesh models set` gives
    it a price.
    """
    upstream = _upstream(url, model, _key(key_env, key_file), takes or [])
    upstream.context_tokens, upstream.max_concurrent = context_tokens, max_concurrent

    async def work() -> ModelVersion:
        async with connect(address, data_dir) as client:
            response = await client.register_upstream(name=name, upstream=upstream)
            return await _checked(client, f"{name}@{response.version}")

    version = run(work())
    if json:
        print_json({"name": name, "version": to_dict(version)})
        return
    label = f"{name}@{version.version}"
    if version.HasField("failure"):
        typer.echo(f"{label} is registered and not healthy: {version.failure.message}")
        typer.echo("it is checked again every few seconds; see `mlxmesh models`")
    else:
        typer.echo(f"{label} is registered; {_state(version)}")


def upstream_lines(version: ModelVersion) -> Iterator[str]:
    """What there is to say of an upstream."""
    upstream = version.upstream
    yield f"upstream    {upstream.base_url}, model {upstream.model_id}"
    yield f"key         {upstream.key or 'none'}"
    yield f"takes       {', '.join(names_of(upstream))}"
    yield f"limits      {upstream.max_concurrent} requests at a time for each generation service"
    if upstream.context_tokens:
        yield f"            {upstream.context_tokens:,} tokens of context"
    why = f": {version.failure.message}" if version.HasField("failure") else ""
    yield f"state       {_state(version)}{why}"


def names_of(upstream: Upstream) -> list[str]:
    """What it takes, as `--takes` is given."""
    from mlxmesh.model.v1.upstream_pb2 import UpstreamCapability

    named = (UpstreamCapability.Name(each) for each in upstream.capabilities)
    return [name.removeprefix(_PREFIX).lower() for name in named]


def _state(version: ModelVersion) -> str:
    from mlxmesh.model.v1.model_pb2 import VersionState

    return VersionState.Name(version.state).removeprefix("VERSION_STATE_").lower()


def _upstream(url: str, model: str, key: str, takes: list[str]) -> Upstream:
    from mlxmesh.model.v1.upstream_pb2 import Upstream, UpstreamCapability

    for each in takes:
        if each not in CAPABILITIES:
            fail(f"--takes {each}: it must be one of {', '.join(CAPABILITIES)}")
    numbers = [UpstreamCapability.Value(_PREFIX + each.upper()) for each in takes]
    return Upstream(base_url=url, model_id=model, key=key, capabilities=numbers)


def _key(variable: str, file: Path | None) -> str:
    if variable and file is not None:
        fail("give --key-env or --key-file, not both")
    if variable:
        return f"env:{variable}"
    return f"file:{file.expanduser().absolute()}" if file is not None else ""


async def _checked(client: MeshClient, label: str) -> ModelVersion:
    """The version after its first health check, or as it is when that takes long."""
    from mlxmesh.model.v1.model_pb2 import VersionState

    late_s = time.monotonic() + _CHECK_WAIT_S
    while True:
        [version] = (await client.get_model(label)).versions
        if version.state != VersionState.VERSION_STATE_LOADING or time.monotonic() > late_s:
            return version
        await asyncio.sleep(_LOOK_S)
