"""Commands about quotas: set, list, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from mlxmesh_cli.commands.access_calls import call_access, is_member, quotas_of
from mlxmesh_cli.commands.completion import complete_subject
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import Address, DataDir, Json
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.access.v1.access_pb2 import Quota
    from mlxmesh_client.access import AccessClient
    from mlxmesh_client.access_requests import Limits, Subject

quotas = typer.Typer(help="Manage quotas of keys, users and teams.", no_args_is_help=True)

SUBJECTS = ("key", "user", "team")


def _checked(text: str) -> str:
    """Typer callback of a subject: checks its form."""
    kind, _, name = text.partition(":")
    if text and not (kind in SUBJECTS and name):
        raise typer.BadParameter("must be user:NAME, team:NAME or key:KEY_ID, as in user:ada")
    return text


SubjectName = Annotated[
    str,
    typer.Argument(
        metavar="SUBJECT",
        help="user:NAME, team:NAME or key:KEY_ID.",
        callback=_checked,
        autocompletion=complete_subject,
    ),
]


@quotas.command(
    "set",
    epilog="Example: mlxmesh quotas set user:ada --requests-per-minute 60 --tokens-per-day 1000000",
)
def set_quota(
    subject: SubjectName,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Generation calls a minute.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Tokens of prompts and outputs a minute.")
    ] = None,
    tokens_per_day: Annotated[
        int | None, typer.Option(min=1, help="Tokens of prompts and outputs a day (UTC).")
    ] = None,
    tokens_per_month: Annotated[
        int | None, typer.Option(min=1, help="Tokens of prompts and outputs a month (UTC).")
    ] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Generations that run at the same time.")
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Set the quota of a key, a user or a team. It replaces the previous one.

    A call counts against the quotas of its key, its user and its team, and is refused with
    RESOURCE_EXHAUSTED when one of them is used up.
    """
    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_day": tokens_per_day,
        "tokens_per_month": tokens_per_month,
        "concurrent_generations": concurrent,
    }
    limits = cast("Limits", {name: limit for name, limit in given.items() if limit is not None})
    if not limits:
        fail(
            f"give at least one limit, such as --tokens-per-day; to remove the quota: `mlxmesh"
            f" quotas delete {subject}`"
        )
    quota = call_access(
        lambda access: access.set_quota(_subject(subject), **limits), address, data_dir
    )
    if json:
        print_json(to_dict(quota))
    else:
        _print([quota])


@quotas.command("list", epilog="Example: mlxmesh quotas list --json")
def list_quotas(
    subject: SubjectName = "",
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List quotas with what is used of them; without a subject all that you may see."""
    wanted = _subject(subject) if subject else None

    async def list_them(access: AccessClient) -> tuple[list[Quota], str]:
        found = await quotas_of(access, wanted)
        return found, "" if found else _no_quota(subject, may_set=not await is_member(access))

    found, nothing = call_access(list_them, address, data_dir)
    if json:
        print_json({"quotas": [to_dict(quota) for quota in found]})
    elif found:
        _print(found)
    else:
        typer.echo(nothing)


@quotas.command("delete", epilog="Example: mlxmesh quotas delete team:research")
def delete(
    subject: SubjectName, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Remove a quota."""
    call_access(lambda access: access.delete_quota(_subject(subject)), address, data_dir)
    if json:
        print_json({"deleted": subject})
    else:
        typer.echo(f"the quota of {subject} is removed")


def _no_quota(subject: str, *, may_set: bool) -> str:
    nothing = f"no quota of {subject}" if subject else "no quotas"
    setting = f"`mlxmesh quotas set {subject or 'user:NAME'} --tokens-per-day N`"
    return f"{nothing}; set one with {setting}" if may_set else nothing


def _subject(text: str) -> Subject:
    kind, _, name = text.partition(":")
    return cast("Subject", (kind, name))


def _print(found: list[Quota]) -> None:
    from mlxmesh_cli.screen.access_tables import quotas_table

    print_view(quotas_table([to_dict(quota) for quota in found]))
