"""Commands about recent requests: list, show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.completion import complete_model
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.telemetry.v1.live_pb2 import ListRequestsResponse

requests = typer.Typer(help="Recent requests of all gateways.", no_args_is_help=True)


@requests.command("list", epilog="Example: mlxmesh requests list --failed -n 20")
def list_requests(
    model: Annotated[
        str, typer.Option(help="Only of this model.", autocompletion=complete_model)
    ] = "",
    principal: Annotated[str, typer.Option(help="Only of this caller; for administrators.")] = "",
    running: Annotated[bool, typer.Option("--running", help="Only those that run.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed.")] = False,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=1000, help="How many at most.")
    ] = 50,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List recent requests, the newest first, without any text.

    A gateway keeps its last 2,000 that ended. Callers who are no administrators see their own.
    """

    async def work() -> ListRequestsResponse:
        async with connect(address, data_dir) as client:
            return await client.live.list_requests(
                model=model,
                principal=principal,
                running=running,
                failed_only=failed,
                page_size=count,
            )

    found = run(work()).requests
    if json:
        print_json({"requests": [to_dict(one) for one in found]})
        return
    if not found:
        typer.echo("no request")
        return
    from mlxmesh_cli.screen.request_tables import requests_table

    print_view(requests_table(found))


@requests.command("show", epilog="Example: mlxmesh requests show gen-428dc6b290ba602b")
def show(
    request: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The request's id.")],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show one recent request; `mlxmesh trace` has its timeline."""

    async def work() -> ListRequestsResponse:
        async with connect(address, data_dir) as client:
            return await client.live.list_requests(request_id=request, page_size=1)

    found = run(work()).requests
    if not found:
        fail(f"no gateway has the request {request}; they keep the last ones only")
    if json:
        print_json(to_dict(found[0]))
        return
    from mlxmesh_cli.screen.request_tables import request_facts

    print_view(request_facts(found[0]))
