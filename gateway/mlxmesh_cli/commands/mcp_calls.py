"""Commands about tools of MCP servers: tools, policy, call, calls."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.completion import complete_tool_function, complete_tool_server
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.mcp import Name, Policy, mcp
from mlxmesh_cli.commands.mcp_options import Arguments, arguments_of
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, say, to_dict

if TYPE_CHECKING:
    from mlxmesh.tool.v1.tool_pb2 import CallToolResponse, Tool, ToolCallRecord
    from mlxmesh_client import MeshClient

__all__ = ["mcp"]

ToolName = Annotated[str, typer.Argument(help="Name of the tool at its server.")]
Function = Annotated[
    str,
    typer.Argument(
        help="SERVER__TOOL, as `mlxmesh mcp tools` shows it.",
        autocompletion=complete_tool_function,
    ),
]


@mcp.command("tools", short_help="List tools.", epilog="Example: mlxmesh mcp tools files")
def list_tools(
    server: Annotated[
        str,
        typer.Argument(
            help="Only of this server.  [default: all]", autocompletion=complete_tool_server
        ),
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List the tools that you may call. Descriptions are the servers' own words."""

    async def work() -> Sequence[Tool]:
        async with connect(address, data_dir) as client:
            return await client.tools.list(server=server)

    found = run(work())
    if json:
        print_json([to_dict(tool) for tool in found])
    elif not found:
        typer.echo("no tools")
    else:
        from mlxmesh_cli.screen.tool_tables import tools_table

        print_view(tools_table(found))


@mcp.command(
    "policy",
    short_help="Set whether calls of a tool need an approval.",
    epilog="Example: mlxmesh mcp policy files read_file always",
)
def policy(
    server: Name,
    tool: ToolName,
    approval: Annotated[
        Policy,
        typer.Argument(help="ask each time, always allow, never allow, or the server's default."),
    ],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Set whether calls of a tool need an approval, or are denied."""

    async def work() -> Tool:
        from mlxmesh.tool.v1 import tool_pb2 as pb

        word = "UNSPECIFIED" if approval is Policy.DEFAULT else approval.name
        async with connect(address, data_dir) as client:
            value = pb.Approval.Value(f"APPROVAL_{word}")
            return await client.tools.set_policy(server, tool, value)

    changed = run(work())
    if json:
        print_json(to_dict(changed))
    else:
        typer.echo(f"{changed.function}: {to_dict(changed)['approval']}")


@mcp.command(
    "call",
    short_help="Call a tool.",
    epilog="""Example: mlxmesh mcp call files__read_file '{"path": "a.txt"}'""",
)
def call(
    function: Function,
    arguments: Arguments = "{}",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Approve the call; do not ask.")] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Call a tool and print its result. Where its policy asks for an approval, you are asked.

    Exits with 1 if the tool says that it failed.
    """
    given = arguments_of(arguments)

    async def work() -> CallToolResponse:
        from mlxmesh_client import ToolNeedsApproval

        async with connect(address, data_dir) as client:
            try:
                return await client.tools.call(function=function, arguments=given, approved=yes)
            except ToolNeedsApproval:
                await _ask(client, function, given)
                return await client.tools.call(function=function, arguments=given, approved=True)

    result = run(work())
    if json:
        print_json(to_dict(result))
    else:
        say(result.text)
        if result.truncated:
            say("the result was larger than allowed and is cut off", err=True)
    if result.is_error:
        raise typer.Exit(1)


async def _ask(client: MeshClient, function: str, arguments: Mapping[str, Any]) -> None:
    """Returns if a person at the terminal approves; else ends the command."""
    if not sys.stdin.isatty():
        fail(f"calls of {function} must be approved: --yes", reason="TOOL_NEEDS_APPROVAL")
    import json

    tools = await client.tools.list(server=function.partition("__")[0])
    found = next((tool for tool in tools if tool.function == function), None)
    if found is not None and found.destructive:
        say("its server says that this tool may destroy something", err=True)
    say(f"{function} {json.dumps(arguments, ensure_ascii=False, indent=2)}", err=True)
    if not typer.confirm("Call it?", err=True):
        fail("not approved")


@mcp.command("calls", short_help="List calls of tools.", epilog="Example: mlxmesh mcp calls -n 20")
def list_calls(
    server: Annotated[
        str,
        typer.Option(help="Only of this server.", autocompletion=complete_tool_server),
    ] = "",
    count: Annotated[int, typer.Option("-n", "--lines", min=1, help="How many, at most.")] = 20,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List calls, the newest first; of everybody for an admin, else your own."""

    async def work() -> Sequence[ToolCallRecord]:
        async with connect(address, data_dir) as client:
            return await client.tools.calls(server=server, limit=count)

    found = run(work())
    if json:
        print_json([to_dict(record) for record in found])
    elif not found:
        typer.echo("no calls")
    else:
        from mlxmesh_cli.screen.tool_tables import calls_table

        print_view(calls_table(found))
