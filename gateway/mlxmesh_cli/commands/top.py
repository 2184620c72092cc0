"""The command that shows a mesh at work: top."""

from __future__ import annotations

from typing import Annotated

import typer

from mlxmesh_cli.mesh.session import Address, DataDir, Json, connect, gateway_address, run
from mlxmesh_cli.screen.output import is_watched, print_json, print_view


def top(
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.1, max=3600, help="Seconds between two looks.")
    ] = 1.0,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Watch a mesh at work: traffic, engines, services, the last events. Ctrl-C ends it.

    Times are milliseconds: ttft to the first output, gap from one message to the next. With --json,
    or where nobody watches a screen, it looks once.
    """
    from rich.console import Console

    from mlxmesh_cli.mesh.look import Look, as_json, watch
    from mlxmesh_cli.screen.top_view import frame

    async def work() -> None:
        async with connect(address, data_dir) as client:
            look = Look(client, gateway_address(address, data_dir))
            if json:
                print_json(await as_json(look))
            elif is_watched():
                await watch(look, Console(), interval_s)
            else:
                await look.once()
                print_view(frame(look.screen))

    run(work())
