"""Commands about what happened: usage, audit."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mlxmesh_cli.commands.access_calls import call_access
from mlxmesh_cli.commands.completion import complete_key, complete_model, complete_user
from mlxmesh_cli.commands.session import Address, DataDir, Json, JsonLines
from mlxmesh_cli.commands.times import FORMS, past_time
from mlxmesh_cli.screen.output import print_json, print_json_line, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.access.v1.access_pb2 import AuditEntry
    from mlxmesh_client.access import AccessClient
    from mlxmesh_client.access_requests import Group

GROUPS = ("key", "user", "team", "model", "hour", "day")


def _groups(given: list[str] | None) -> list[str]:
    """Typer callback of --by: each value may be several words with commas between them."""
    words = [word for text in given or () for word in text.split(",") if word]
    unknown = [word for word in words if word not in GROUPS]
    if unknown:
        raise typer.BadParameter(f"must be key, user, team, model, hour or day, not {unknown[0]}")
    return list(dict.fromkeys(words))


def usage(
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="Sum by key, user, team, model, hour or day; several with commas.  [default: one"
            " total]",
            callback=_groups,
            autocompletion=lambda: list(GROUPS),
        ),
    ] = None,
    start: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            parser=past_time,
            metavar="TIME",
            help=f"Begin: {FORMS}.  [default: 30 days before the end]",
        ),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option(
            "--to", parser=past_time, metavar="TIME", help="End, in the same forms.  [default: now]"
        ),
    ] = None,
    user: Annotated[
        str, typer.Option(help="Only usage of this user.", autocompletion=complete_user)
    ] = "",
    key: Annotated[
        str, typer.Option(help="Only usage of this key.", autocompletion=complete_key)
    ] = "",
    model: Annotated[
        str, typer.Option(help="Only usage of this model.", autocompletion=complete_model)
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show requests, tokens and device time, summed by key, user, team, model, hour or day.

    Members see their own usage. Hours and days are in UTC; --from and --to are rounded to hours.
    Gateways report every few seconds.
    """
    groups = cast("list[Group]", by or [])
    rows = call_access(
        lambda access: access.query_usage(
            group_by=groups, start=start, end=end, user=user, key_id=key, model=model
        ),
        address,
        data_dir,
    )
    if json:
        print_json({"usage": [to_dict(row) for row in rows]})
        return
    # Without groups there is always a row, of zeros where nothing was used.
    if not any(row.amounts.ListFields() for row in rows):
        typer.echo("no usage in this time")
        return
    from mlxmesh_cli.screen.access_tables import usage_table

    print_view(usage_table([to_dict(row) for row in rows], groups))


def audit(
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, help="Number of entries, the newest ones.")
    ] = 50,
    actor: Annotated[
        str, typer.Option(help="Only entries of this actor, such as user:ada or key:k_1a2b3c.")
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    json: JsonLines = False,
) -> None:
    """Show who changed users, keys and quotas, and who was refused; the newest entry is last."""

    async def newest(access: AccessClient) -> list[AuditEntry]:
        found: list[AuditEntry] = []
        async for entry in access.audit_entries(actor=actor):
            found.append(entry)
            if len(found) == lines:
                break
        return found[::-1]

    entries = [to_dict(entry) for entry in call_access(newest, address, data_dir)]
    if json:
        for entry in entries:
            print_json_line(entry)
        return
    if not entries:
        typer.echo(f"no entries of {actor}" if actor else "no entries")
        return
    from mlxmesh_cli.screen.access_tables import audit_table

    print_view(audit_table(entries))
