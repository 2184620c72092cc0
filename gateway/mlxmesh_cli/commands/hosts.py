"""Commands about the hosts of a mesh: list, invite, invitations, revoke, remove."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.confirmation import Yes, confirm
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.policy_options import parse_seconds
from mlxmesh_cli.commands.session import DataDir, Json, fail_without_mesh, run, tls_of
from mlxmesh_cli.mesh.location import resolve_data_dir
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.control.v1 import hosts_pb2 as pb
    from mlxmesh.control.v1.hosts_pb2_grpc import HostServiceStub

hosts = typer.Typer(help="The hosts of a mesh: list, invite, remove.", invoke_without_command=True)

TIMEOUT_S = 15.0
MAX_LIFETIME_S = 86_400
SERVICES = ("runtime", "generation", "gateway", "worker")


@hosts.callback(epilog="Example: mlxmesh hosts")
def list_hosts(context: typer.Context, data_dir: DataDir = None, json: Json = False) -> None:
    """List the hosts of the mesh with their services, or invite and remove some.

    On the first host the list includes hosts that joined and are away.
    """
    if context.invoked_subcommand is not None:
        return
    directory = resolve_data_dir(data_dir)
    rows = run(_rows(directory))
    if not rows:
        fail_without_mesh(directory)
    if json:
        print_json({"hosts": rows})
        return
    from mlxmesh_cli.screen.grid import Column, Grid

    table = Grid(Column("host"), Column("state"), Column("address"), Column("services", drop=1))
    for row in rows:
        services = ", ".join(f"{name} {state}" for name, state in row["services"].items())
        table.add(row["host"], row["state"], row["address"], services)
    print_view(table)


@hosts.command("invite", epilog="Example: mlxmesh hosts invite --services runtime,generation")
def invite(
    services: Annotated[
        str,
        typer.Option(
            help="Services of the host, separated by commas: runtime, generation, gateway, worker."
        ),
    ] = "runtime,generation,gateway",
    lifetime: Annotated[
        str, typer.Option("--for", help="How long it is open, such as 15m or 2h; at most 24h.")
    ] = "15m",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Print a token for one host, and the whole command to run there.

    The token is valid once and for a short time. Whoever has it can join, so send it like a
    password. Run this on the first host.
    """
    names = [name.strip() for name in services.split(",") if name.strip()]
    if unknown := [name for name in names if name not in SERVICES]:
        fail(f"--services: {unknown[0]} is none of {', '.join(SERVICES)}", exit_code=2)
    lifetime_s = _lifetime_s(lifetime)
    directory = resolve_data_dir(data_dir)

    async def work() -> pb.CreateInvitationResponse:
        from mlxmesh.control.v1 import hosts_pb2 as pb

        async with _first_host(directory) as stub:
            request = pb.CreateInvitationRequest(services=names, lifetime_s=lifetime_s)
            return await stub.CreateInvitation(request, timeout=TIMEOUT_S)

    made = run(work())
    command = f"mlxmesh up --join {made.address} --token {made.token}"
    if json:
        print_json({**to_dict(made), "command": command})
        return
    typer.echo(f"# on the other host, once, within {lifetime} (invitation {made.invitation.id});")
    typer.echo("# add --detach to leave it running in the background:")
    typer.echo(command)


@hosts.command("invitations", epilog="Example: mlxmesh hosts invitations --json")
def invitations(data_dir: DataDir = None, json: Json = False) -> None:
    """List the invitations of the last day; their tokens are not stored."""
    directory = resolve_data_dir(data_dir)

    async def work() -> pb.ListInvitationsResponse:
        from mlxmesh.control.v1 import hosts_pb2 as pb

        async with _first_host(directory) as stub:
            return await stub.ListInvitations(pb.ListInvitationsRequest(), timeout=TIMEOUT_S)

    found = run(work())
    if json:
        print_json({"invitations": [to_dict(each) for each in found.invitations]})
        return
    from mlxmesh_cli.screen.grid import Column, Grid

    table = Grid(Column("id"), Column("state"), Column("expires"), Column("services", drop=1))
    for each in found.invitations:
        table.add(each.id, _state_words(each), _time(each.expire_time), ", ".join(each.services))
    print_view(table)


@hosts.command("revoke", epilog="Example: mlxmesh hosts revoke 3f09a1c27b54")
def revoke(
    invitation: Annotated[str, typer.Argument(metavar="ID", help="Id of the invitation.")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make an open invitation invalid."""
    directory = resolve_data_dir(data_dir)

    async def work() -> None:
        from mlxmesh.control.v1 import hosts_pb2 as pb

        async with _first_host(directory) as stub:
            request = pb.RevokeInvitationRequest(id=invitation)
            await stub.RevokeInvitation(request, timeout=TIMEOUT_S)

    run(work())
    if json:
        print_json({"revoked": invitation})
    else:
        typer.echo(f"revoked {invitation}")


@hosts.command("remove", epilog="Example: mlxmesh hosts remove mac-2")
def remove(
    host: Annotated[str, typer.Argument(metavar="HOST", help="Name of the host.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also while it runs, for example if it was stolen.")
    ] = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Remove a host that has stopped: its certificates are recalled, and not renewed any more.

    Other hosts refuse its calls within 15 seconds; docs/hosts.md says what ends later.
    """
    directory = resolve_data_dir(data_dir)
    if not confirm(f"remove {host} from the mesh?", yes=yes):
        fail("nothing was changed", reason="CANCELLED")

    async def work() -> None:
        from mlxmesh.control.v1 import hosts_pb2 as pb

        async with _first_host(directory) as stub:
            await stub.RemoveHost(pb.RemoveHostRequest(name=host, force=force), timeout=TIMEOUT_S)

    run(work())
    if json:
        print_json({"removed": host})
    else:
        typer.echo(f"removed {host}")


async def _rows(data_dir: Path) -> list[dict[str, Any]]:
    """One per host: what the registry lists, and on the first host also who joined and is away."""
    from mlxmesh_cli.commands.overview import overview

    state = await overview(data_dir, tls_of(data_dir))
    rows: dict[str, dict[str, Any]] = {}
    for instance in state["instances"]:
        name = instance.get("host") or "this host, starting"
        address = instance["address"].rpartition(":")[0].strip("[]")
        row = rows.setdefault(name, {"host": name, "address": address, "services": {}})
        row["services"][instance["service"]] = instance["state"]
    for row in rows.values():
        is_whole = set(row["services"].values()) <= {"serving"}
        row["state"] = "serving" if is_whole else "partly serving"
    for joined in await _joined(data_dir):
        away: dict[str, Any] = {
            "host": joined.name,
            "address": joined.address,
            "services": {},
            "state": "away",
        }
        row = rows.setdefault(joined.name, away)
        row["certificates_expire"] = _time(joined.certificates_expire_time)
    return [rows[name] for name in sorted(rows)]


async def _joined(data_dir: Path) -> list[pb.JoinedHost]:
    """The hosts that joined; none where this is not the first host."""
    from mlxmesh.control.v1 import hosts_pb2 as pb
    from mlxmesh_shared.errors import MeshError

    try:
        async with _first_host(data_dir) as stub:
            return list((await stub.ListHosts(pb.ListHostsRequest(), timeout=TIMEOUT_S)).hosts)
    except MeshError:
        return []


@asynccontextmanager
async def _first_host(data_dir: Path) -> AsyncGenerator[HostServiceStub]:
    """HostService of the launcher of a data directory. Raises: ServiceUnavailable without one."""
    from mlxmesh_cli.mesh.supervisor import hosts_of
    from mlxmesh_launcher.record import read_record
    from mlxmesh_shared.errors import ServiceUnavailable

    record = read_record(data_dir)
    if record is None or not record.control:
        raise ServiceUnavailable(
            f"no mesh that serves was started from {data_dir} on this host; start one with `mlxmesh"
            " up --hosts`, and run this on its first host"
        )
    async with hosts_of(record, tls_of(data_dir)) as stub:
        yield stub


def _lifetime_s(text: str) -> int:
    seconds = parse_seconds(text, "--for")
    if not 1 <= seconds <= MAX_LIFETIME_S:
        raise typer.BadParameter("must be from 1s to 24h", param_hint="--for")
    return seconds


def _state_words(invitation: pb.Invitation) -> str:
    from mlxmesh.control.v1 import hosts_pb2 as pb

    name = pb.InvitationState.Name(invitation.state).removeprefix("INVITATION_STATE_").lower()
    return f"{name} by {invitation.used_by}" if invitation.used_by else name


def _time(timestamp: Any) -> str:
    return str(timestamp.ToJsonString()).partition(".")[0].rstrip("Z") + "Z"
