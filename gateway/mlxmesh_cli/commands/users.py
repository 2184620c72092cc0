"""Commands about users: create, list, show, approve, disable, change, delete."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.access_calls import call_access, is_member, quotas_of
from mlxmesh_cli.commands.completion import complete_user
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.passwords import PasswordFile, new_password, read_password
from mlxmesh_cli.commands.session import Address, DataDir, Json, run
from mlxmesh_cli.screen.output import print_json, print_view, say, to_dict

if TYPE_CHECKING:
    from mlxmesh_client.access import AccessClient
    from mlxmesh_client.access_requests import UserChanges

users = typer.Typer(help="Manage users and service accounts.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the user.", autocompletion=complete_user)]
NewName = Annotated[
    str, typer.Argument(help="1 to 64 of a-z 0-9 . _ - @, with a letter or digit first.")
]
Team = Annotated[str, typer.Option(help="Team whose quota the user shares.")]


class Role(StrEnum):
    """What a user may do."""

    MEMBER = "member"
    ADMIN = "admin"


@users.command("create", epilog="Example: mlxmesh users create ada --admin")
def create(
    name: NewName,
    admin: Annotated[
        bool, typer.Option("--admin", help="An admin, who may do everything.  [default: member]")
    ] = False,
    service_account: Annotated[
        bool, typer.Option("--service-account", help="A program, which has keys and no password.")
    ] = False,
    team: Team = "",
    password_file: PasswordFile = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Create a user. The first one, an admin, turns authentication on.

    Until then everybody on this machine may do everything. The first user's command also stores a
    key in the data directory, so that further commands there work.
    """
    from mlxmesh_cli.commands.first_user import NewUser, create_user

    if service_account and password_file is not None:
        fail("a service account has no password; remove --password-file")
    password = "" if service_account else new_password(password_file, name)
    new = NewUser(
        name=name,
        password=password,
        kind="service_account" if service_account else "person",
        role="admin" if admin else "member",
        team=team,
    )
    created = run(create_user(new, address, data_dir))
    if json:
        print_json(to_dict(created.user))
    else:
        typer.echo(f"{name} is created ({'admin' if admin else 'member'})")
    for note in created.notes:
        say(note, err=True)


@users.command("list", epilog="Example: mlxmesh users list --json")
def list_users(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List the users and service accounts, with their state and role."""
    found = call_access(lambda access: access.list_users(), address, data_dir)
    if json:
        print_json({"users": [to_dict(user) for user in found]})
    elif found:
        from mlxmesh_cli.screen.access_tables import users_table

        print_view(users_table([to_dict(user) for user in found]))
    else:
        typer.echo("no users; `mlxmesh users create NAME --admin` turns authentication on")


@users.command("show", epilog="Example: mlxmesh users show ada")
def show(
    name: Annotated[
        str,
        typer.Argument(help="Name of the user.  [default: you]", autocompletion=complete_user),
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show one user with its keys and its quota."""

    async def facts_of(access: AccessClient) -> dict[str, Any]:
        user = await access.get_user(name)
        keys = await access.list_keys(user=user.name)
        quotas = await quotas_of(access, ("user", user.name))
        return {
            "user": to_dict(user),
            "keys": [to_dict(key) for key in keys],
            "quotas": [to_dict(quota) for quota in quotas],
        }

    facts = call_access(facts_of, address, data_dir)
    if json:
        print_json(facts)
        return
    from mlxmesh_cli.screen.access_tables import user_view

    print_view(user_view(facts))


@users.command("approve", epilog="Example: mlxmesh users approve bob")
def approve(
    name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Let a user who signed up use the mesh."""
    _change(name, {"state": "active"}, f"{name} may use the mesh", address, data_dir, json)


@users.command("disable", epilog="Example: mlxmesh users disable bob")
def disable(
    name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Stop a user: its sessions end, and its keys stop working until it is enabled."""
    line = f"{name} is disabled, and so are its keys"
    _change(name, {"state": "disabled"}, line, address, data_dir, json)


@users.command("enable", epilog="Example: mlxmesh users enable bob")
def enable(
    name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Let a disabled user use the mesh again, with the same keys."""
    _change(name, {"state": "active"}, f"{name} may use the mesh", address, data_dir, json)


@users.command("set-role", epilog="Example: mlxmesh users set-role bob admin")
def set_role(
    name: Name,
    role: Annotated[Role, typer.Argument(help="member or admin.")],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make a user an admin, or a member again."""
    _change(name, {"role": role.value}, f"{name} has the role {role}", address, data_dir, json)


@users.command("set-team", epilog="Example: mlxmesh users set-team bob research")
def set_team(
    name: Name,
    team: Annotated[str, typer.Argument(help='The team; "" for none.')],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Put a user into a team, whose quota its members share."""
    line = f"{name} is in the team {team}" if team else f"{name} is in no team"
    _change(name, {"team": team}, line, address, data_dir, json)


@users.command("password", epilog="Example: mlxmesh users password bob --password-file new.txt")
def password(
    name: Name,
    password_file: PasswordFile = None,
    old_password_file: Annotated[
        Path | None,
        typer.Option(help="The same for the old password, which members need for their own."),
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Change a password: your own, or as an admin anybody's. It ends the user's sessions."""
    old = ""
    if old_password_file is not None or call_access(is_member, address, data_dir):
        old = read_password(old_password_file, f"Old password of {name}")
    changes: UserChanges = {"password": new_password(password_file, name), "old_password": old}
    line = f"{name} has a new password; sessions of {name} have ended"
    _change(name, changes, line, address, data_dir, json)


@users.command("delete", epilog="Example: mlxmesh users delete bob")
def delete(
    name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Remove a user and its keys. Its usage and its entries in the audit log stay."""
    call_access(lambda access: access.delete_user(name), address, data_dir)
    if json:
        print_json({"deleted": name})
    else:
        typer.echo(f"{name} is deleted")


def _change(
    name: str,
    changes: UserChanges,
    line: str,
    address: str | None,
    data_dir: Path | None,
    json: bool,
) -> None:
    user = call_access(lambda access: access.update_user(name, **changes), address, data_dir)
    if json:
        print_json(to_dict(user))
    else:
        typer.echo(line)
