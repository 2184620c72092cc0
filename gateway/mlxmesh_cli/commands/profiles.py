"""The group `profiles`: list, show, set and delete named settings of engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.completion import complete_profile
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.profile_pb2 import Profile
    from mlxmesh_client.profiles import ProfileSettings

profiles = typer.Typer(
    help="Manage profiles: named settings that models are loaded with.", no_args_is_help=True
)

_MAX_TEMPLATE_BYTES = 4 * 262_144
Name = Annotated[str, typer.Argument(help="Name of the profile.", autocompletion=complete_profile)]


@profiles.command("list", epilog="Example: mlxmesh profiles list --json")
def list_profiles(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List the profiles, what they set, and the versions that use them."""

    async def work() -> list[Profile]:
        async with connect(address, data_dir) as client:
            return await client.list_profiles()

    found = run(work())
    if json:
        print_json({"profiles": [to_dict(profile) for profile in found]})
        return
    if not found:
        typer.echo("no profiles; make one with `mlxmesh profiles set`")
        return
    from mlxmesh_cli.screen.tables import profiles_table

    print_view(profiles_table(found))


@profiles.command("show", epilog="Example: mlxmesh profiles show long@2")
def show(
    profile: Annotated[
        str,
        typer.Argument(
            help="NAME for the newest revision, or NAME@REVISION.", autocompletion=complete_profile
        ),
    ],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show all settings of a profile, with its chat template."""

    async def work() -> Profile:
        async with connect(address, data_dir) as client:
            return await client.get_profile(profile)

    found = run(work())
    if json:
        print_json(to_dict(found))
        return
    from mlxmesh_cli.screen.tables import profile_settings

    typer.echo(f"{found.name}@{found.revision}")
    settings = profile_settings(found)
    for name, value in settings.items():
        typer.echo(f"  {name:24} {value}")
    if not settings and not found.settings.chat_template:
        typer.echo("  no settings: the defaults, which `mlxmesh config engine` shows")
    if found.used_by:
        typer.echo(f"used by {', '.join(found.used_by)}")
    if found.settings.chat_template:
        typer.echo("chat template:")
        typer.echo(found.settings.chat_template)


@profiles.command(
    "set", epilog="Example: mlxmesh profiles set long --context 32768 --max-running 8"
)
def set_profile(
    name: Name,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="auto|as_shipped|float32|float16|bfloat16", help="Type of the weights."
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Most tokens of prompt and output together."),
    ] = None,
    kv_cache_bytes: Annotated[
        int | None,
        typer.Option(min=2**20, max=2**50, help="Memory for keys and values of what runs."),
    ] = None,
    kv_cache_type: Annotated[
        str | None,
        typer.Option(metavar="full|8bit|4bit", help="Form of keys and values; fewer bits lose."),
    ] = None,
    prefix_cache_bytes: Annotated[
        int | None, typer.Option(min=0, max=2**50, help="Memory of the prefix cache; 0 for none.")
    ] = None,
    prefix_disk_bytes: Annotated[
        int | None,
        typer.Option(min=0, max=2**50, help="Prefixes that each host keeps on disk; 0 for none."),
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Sequences decoded at once.")
    ] = None,
    max_waiting: Annotated[
        int | None, typer.Option(min=0, max=100_000, help="Sequences in the queue.")
    ] = None,
    prefill_tokens_per_step: Annotated[
        int | None,
        typer.Option(min=1, max=65_536, help="Most prompt tokens between two decode steps."),
    ] = None,
    forward: Annotated[
        str | None, typer.Option(metavar="auto|mlx", help="The forward pass.")
    ] = None,
    max_adapters: Annotated[
        int | None, typer.Option(min=0, max=64, help="Slots for LoRA adapters; 0 refuses them.")
    ] = None,
    adapter_bytes: Annotated[
        int | None,
        typer.Option(min=2**20, max=2**50, help="Memory for the weights of adapters in slots."),
    ] = None,
    speculative: Annotated[
        str | None,
        typer.Option(metavar="off|ngram|draft", help="Source of proposed tokens; output is equal."),
    ] = None,
    draft_model: Annotated[
        str | None,
        typer.Option(metavar="NAME@VERSION", help="Model that proposes, with draft."),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(min=1, max=16, help="Ranks that compute a replica together, over hosts."),
    ] = None,
    group_split: Annotated[
        str | None,
        typer.Option(metavar="auto|tensor|pipeline", help="How ranks divide the model."),
    ] = None,
    tool_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Format of tool calls.")
    ] = None,
    reasoning_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Format of reasoning.")
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Chat template in Jinja, in place of the model's own."),
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Store a profile with these settings and no others; what is not given keeps the default.

    Each change is a new revision. Loaded models keep theirs: load them again with
    `mlxmesh load NAME --profile PROFILE`.
    """
    given: ProfileSettings = {
        "dtype": dtype,
        "context_tokens": context,
        "kv_cache_bytes": kv_cache_bytes,
        "kv_cache_type": kv_cache_type,
        "prefix_cache_bytes": prefix_cache_bytes,
        "prefix_disk_bytes": prefix_disk_bytes,
        "max_running": max_running,
        "max_waiting": max_waiting,
        "prefill_tokens_per_step": prefill_tokens_per_step,
        "forward": forward,
        "max_adapters": max_adapters,
        "adapter_bytes": adapter_bytes,
        "speculative": speculative,
        "draft_model": draft_model,
        "group_size": group_size,
        "group_split": group_split,
        "tool_format": tool_format,
        "reasoning_format": reasoning_format,
        "chat_template": _read(template) if template is not None else None,
    }

    async def work() -> Profile:
        async with connect(address, data_dir) as client:
            return await client.set_profile(name, **given)

    stored = run(work())
    if json:
        print_json(to_dict(stored))
        return
    label = f"{stored.name}@{stored.revision}"
    typer.echo(f"{label} is stored; load a model with `mlxmesh load NAME --profile {stored.name}`")


@profiles.command("delete", epilog="Example: mlxmesh profiles delete long")
def delete(
    name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Remove a profile with all its revisions; no model may use it.

    `mlxmesh load NAME --profile default` loads a model without one.
    """

    async def work() -> None:
        async with connect(address, data_dir) as client:
            await client.delete_profile(name)

    run(work())
    if json:
        print_json({"deleted": name})
    else:
        typer.echo(f"profile {name} is deleted")


def _read(file: Path) -> str:
    """A template's text; ends the command if there is none."""
    try:
        if file.stat().st_size > _MAX_TEMPLATE_BYTES:
            fail(f"{file} is too large for a chat template")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        fail(f"{file} is not text in UTF-8")
    if not text:
        fail(f"{file} is empty")
    return text
