"""The command that shows where the time of one request went."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.mesh.session import Address, DataDir, Json, connect, print_json, run, to_dict
from mlxmesh_cli.screen.output import print_view

if TYPE_CHECKING:
    from mlxmesh.telemetry.v1.telemetry_pb2 import GetTraceResponse
    from mlxmesh_client import MeshClient

# Processes tell of their spans every second: a trace is whole a while after its request.
WHOLE_AFTER_MS = 1500
PATIENCE_S = 4.0
POLL_S = 0.25
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


def trace(
    request: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="A request's id, or its trace's: 32 digits.")
    ],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show the timeline of one recent request: what each process did for it, and how long."""
    response = run(_asked(request, address, data_dir))
    if json:
        print_json(to_dict(response))
        return
    from mlxmesh_cli.screen.timeline import timeline

    print_view(timeline(response.spans))


async def _asked(request: str, address: str | None, data_dir: DataDir) -> GetTraceResponse:
    from rich.console import Console

    # A trace that is not there yet is waited for; whoever watches is told why.
    with Console(stderr=True).status("waiting for the whole trace"):
        async with connect(address, data_dir) as client:
            return await whole_trace(client, request)


async def whole_trace(client: MeshClient, request: str) -> GetTraceResponse:
    """The trace of one request; one that is not whole yet is waited for. Raises: TraceNotFound."""
    from mlxmesh_shared.errors import TraceNotFound

    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            response = await _ask(client, request)
            if response.time_since_last_span_ms >= WHOLE_AFTER_MS or time.monotonic() >= until_s:
                return response
        except TraceNotFound:
            if time.monotonic() >= until_s:
                raise
        await asyncio.sleep(POLL_S)


async def _ask(client: MeshClient, request: str) -> GetTraceResponse:
    from mlxmesh_shared.errors import TraceNotFound

    try:
        return await client.trace(request)
    except TraceNotFound:
        if not _TRACE_ID.fullmatch(request):
            raise
        return await client.trace(trace_id=request)
