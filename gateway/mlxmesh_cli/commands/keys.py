"""Commands about API keys: create, list, revoke."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.access_calls import call_access
from mlxmesh_cli.commands.completion import complete_key, complete_user
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import Address, DataDir, Json
from mlxmesh_cli.commands.times import FORMS, future_time
from mlxmesh_cli.screen.output import print_json, print_view, say, to_dict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlxmesh.access.v1.access_pb2 import ApiKey
    from mlxmesh_client.access import AccessClient

keys = typer.Typer(help="Manage API keys.", no_args_is_help=True)

MAX_NAMED = 3
"""How many keys an error lists."""


@keys.command(
    "create", epilog="Example: mlxmesh keys create app --user ci --model 'qwen*' --expires 90d"
)
def create(
    name: Annotated[str, typer.Argument(help="Your name for it, such as the program's.")],
    user: Annotated[
        str,
        typer.Option(
            help="User or service account that it belongs to; for admins.  [default: you]",
            autocompletion=complete_user,
        ),
    ] = "",
    admin: Annotated[
        bool, typer.Option("--admin", help="May do what an admin may.  [default: member]")
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Model that it may use, or a pattern such as 'qwen*'; may be repeated.",
        ),
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(parser=future_time, metavar="TIME", help=f"When it stops working: {FORMS}."),
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Create a key and print it. It is shown this once; the mesh keeps only a hash of it.

    Standard output has the key alone, as for KEY=$(mlxmesh keys create app). Programs send it as
    `authorization: Bearer KEY` or as `x-api-key`; this command reads MLXMESH_API_KEY.
    """
    created = call_access(
        lambda access: access.create_key(
            name,
            user=user,
            role="admin" if admin else "member",
            models=model or (),
            expires=expires,
        ),
        address,
        data_dir,
    )
    if json:
        print_json(to_dict(created))
        return
    typer.echo(created.secret)
    say(
        f"{created.key.key_id} of {created.key.user}: keep the key above, it is not shown again;"
        f" `mlxmesh keys revoke {created.key.key_id}` ends it",
        err=True,
    )


@keys.command("list", epilog="Example: mlxmesh keys list --user ci")
def list_keys(
    user: Annotated[
        str,
        typer.Option(
            help="Only keys of this user.  [default: your own; for admins all]",
            autocompletion=complete_user,
        ),
    ] = "",
    revoked: Annotated[bool, typer.Option("--revoked", help="List revoked keys too.")] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List keys by their ids and first characters, with their models, expiry and last use."""
    found = call_access(
        lambda access: access.list_keys(user=user, revoked=revoked), address, data_dir
    )
    if json:
        print_json({"keys": [to_dict(key) for key in found]})
    elif found:
        from mlxmesh_cli.screen.access_tables import keys_table

        print_view(keys_table([to_dict(key) for key in found]))
    else:
        typer.echo("no keys; create one with `mlxmesh keys create NAME`")


@keys.command("revoke", epilog="Example: mlxmesh keys revoke k_1a2b3c")
def revoke(
    key: Annotated[
        str,
        typer.Argument(
            help="Id of the key, or the beginning of the id or of the key itself, if only one key"
            " has it.",
            autocompletion=complete_key,
        ),
    ],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Revoke a key for ever."""

    async def revoke_it(access: AccessClient) -> ApiKey:
        return await access.revoke_key(_named(key, await access.list_keys()))

    revoked = call_access(revoke_it, address, data_dir)
    if json:
        print_json(to_dict(revoked))
    else:
        typer.echo(f"{revoked.key_id} ({revoked.name}) of {revoked.user} is revoked")


def _named(text: str, known: Sequence[ApiKey]) -> str:
    """The id of the only key whose id or displayed characters begin with the text.

    The text itself where there is none: the mesh may know it. Several end the command.
    """
    if not text or any(text in (key.key_id, key.prefix) for key in known):
        return text
    found = [key for key in known if key.key_id.startswith(text) or key.prefix.startswith(text)]
    if len(found) > 1:
        ids = ", ".join(key.key_id for key in found[:MAX_NAMED])
        fail(f"{len(found)} keys begin with {text}, such as {ids}; give more characters")
    return found[0].key_id if found else text
