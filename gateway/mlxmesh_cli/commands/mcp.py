"""Commands about MCP servers and their tools: add, list, show, tools, policy, call, calls, ..."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.completion import complete_tool_server
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.mcp_options import Env, Header, secrets_of
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, say, to_dict

if TYPE_CHECKING:
    from mlxmesh.tool.v1.tool_pb2 import Server
    from mlxmesh_client.tools import ToolsClient

mcp = typer.Typer(help="Give models tools of MCP servers.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(help="Name of the server.", autocompletion=complete_tool_server)
]
NewName = Annotated[str, typer.Argument(help="Words of a-z and 0-9, joined by - or _.")]
Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0.1, max=600, help="Longest call, in seconds.")
]
MaxResult = Annotated[
    int | None, typer.Option(min=1024, max=16_777_216, help="Largest result, in bytes.")
]


class Access(StrEnum):
    """Who may use the tools of a server."""

    ADMINS = "admins"
    EVERYONE = "everyone"


class Approval(StrEnum):
    """Whether calls need an approval."""

    ASK = "ask"
    ALWAYS = "always"
    NEVER = "never"


class Policy(StrEnum):
    """The policy of a tool."""

    DEFAULT = "default"
    ASK = "ask"
    ALWAYS = "always"
    NEVER = "never"


@mcp.command(
    "add",
    short_help="Add an MCP server: a command, or a URL.",
    epilog="Example: mlxmesh mcp add files -- npx -y some-mcp-server ~/notes",
)
def add(
    name: NewName,
    command: Annotated[
        list[str] | None, typer.Argument(help="Command that speaks MCP, after `--`.")
    ] = None,
    url: Annotated[str, typer.Option(help="URL of a server that speaks MCP over HTTP.")] = "",
    env: Env = None,
    directory: Annotated[str, typer.Option(help="Working directory.  [default: its own]")] = "",
    header: Header = None,
    access: Annotated[Access, typer.Option(help="Who may use its tools.")] = Access.ADMINS,
    approval: Annotated[
        Approval, typer.Option(help="Whether calls of its tools need an approval.")
    ] = Approval.ASK,
    timeout: Timeout = None,
    max_result_bytes: MaxResult = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Store it only.")] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Add an MCP server and list its tools. The first one starts the tools service.

    A command runs on the host of the tools service, with its rights: add only what you trust.
    Values of --env and --header are stored encrypted and never shown again.

    Further example: mlxmesh mcp add search --url https://example.org/mcp --header X-Key=@key.txt
    """
    if bool(command) == bool(url):
        fail("name one of: --url, or a command after `--`")
    options: dict[str, Any] = {
        "command": command or (),
        "environment": secrets_of(env, "--env"),
        "directory": directory,
        "url": url,
        "headers": secrets_of(header, "--header"),
        "disabled": disabled,
    }
    _show(
        address,
        data_dir,
        lambda tools: tools.add(
            name, **options, **_settings(access, approval, timeout, max_result_bytes)
        ),
        json=json,
    )


@mcp.command(
    "change",
    short_help="Change access, approval or limits of a server.",
    epilog="Example: mlxmesh mcp change files --access everyone --approval always",
)
def change(
    name: Name,
    access: Annotated[Access | None, typer.Option(help="Who may use its tools.")] = None,
    approval: Annotated[
        Approval | None, typer.Option(help="Whether calls of its tools need an approval.")
    ] = None,
    timeout: Timeout = None,
    max_result_bytes: MaxResult = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Change what is given; everything else stays. A limit that is not given gets its default."""
    settings = _settings(access, approval, timeout, max_result_bytes)
    _show(address, data_dir, lambda tools: tools.update(name, **settings), json=json)


@mcp.command("list", short_help="List MCP servers.", epilog="Example: mlxmesh mcp list")
def list_servers(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List the MCP servers with their state."""

    async def work() -> Sequence[Server]:
        async with connect(address, data_dir) as client:
            return await client.tools.servers()

    found = run(work())
    if json:
        print_json([to_dict(server) for server in found])
    elif not found:
        typer.echo("no MCP servers; `mlxmesh mcp add` adds one")
    else:
        from mlxmesh_cli.screen.tool_tables import servers_table

        print_view(servers_table(found))


@mcp.command("show", short_help="Show a server.", epilog="Example: mlxmesh mcp show files")
def show(name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show how a server is reached, its state and its tools."""

    async def work() -> Server:
        async with connect(address, data_dir) as client:
            found = [each for each in await client.tools.servers() if each.name == name]
            return found[0] if found else fail(f"there is no MCP server {name}")

    _print(run(work()), json=json)


@mcp.command("remove", short_help="Remove a server.", epilog="Example: mlxmesh mcp remove files")
def remove(
    name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Remove a server and end its process. Records of calls stay."""

    async def work() -> None:
        async with connect(address, data_dir) as client:
            await client.tools.remove(name)

    run(work())
    if json:
        print_json({"removed": name})
    else:
        typer.echo(f"{name} is removed")


@mcp.command(
    "refresh", short_help="Connect again, list again.", epilog="Example: mlxmesh mcp refresh files"
)
def refresh(
    name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Have a server list its tools again; one that failed is connected now."""
    _show(address, data_dir, lambda tools: tools.refresh(name), json=json)


@mcp.command("enable", short_help="Connect a server.", epilog="Example: mlxmesh mcp enable files")
def enable(
    name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Connect a server that was disabled."""
    _show(address, data_dir, lambda tools: tools.update(name, disabled=False), json=json)


@mcp.command(
    "disable", short_help="Disconnect a server.", epilog="Example: mlxmesh mcp disable files"
)
def disable(
    name: Name, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Disconnect a server and end its process; it stays stored."""
    _show(address, data_dir, lambda tools: tools.update(name, disabled=True), json=json)


def _settings(
    access: Access | None,
    approval: Approval | None,
    timeout_s: float | None,
    max_result_bytes: int | None,
) -> dict[str, Any]:
    from mlxmesh.tool.v1 import tool_pb2 as pb

    settings: dict[str, Any] = {}
    if access is not None:
        settings["access"] = pb.ServerAccess.Value(f"SERVER_ACCESS_{access.name}")
    if approval is not None:
        settings["default_approval"] = pb.Approval.Value(f"APPROVAL_{approval.name}")
    if timeout_s is not None or max_result_bytes is not None:
        settings["limits"] = pb.ServerLimits(
            timeout_ms=round((timeout_s or 0) * 1000), max_result_bytes=max_result_bytes or 0
        )
    return settings


def _show(
    address: str | None,
    data_dir: Path | None,
    call: Callable[[ToolsClient], Awaitable[Server]],
    *,
    json: bool,
) -> None:
    async def work() -> Server:
        async with connect(address, data_dir) as client:
            return await call(client.tools)

    _print(run(work()), json=json)


def _print(server: Server, *, json: bool) -> None:
    if json:
        print_json(to_dict(server))
        return
    from mlxmesh_cli.screen.tool_tables import server_view

    print_view(server_view(server))
    if server.failure.message:
        say(f"{server.name} cannot be used yet: {server.failure.message}", err=True)
