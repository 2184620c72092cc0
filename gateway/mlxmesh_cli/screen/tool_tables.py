"""MCP servers, tools and calls as tables."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from rich.console import Group
from rich.text import Text

from mlxmesh.tool.v1 import tool_pb2 as pb
from mlxmesh_cli.screen.grid import Column, Grid
from mlxmesh_cli.screen.output import enum_word

MIN_TEXT_CELLS = 20
_STYLES = {
    pb.SERVER_STATE_READY: "green",
    pb.SERVER_STATE_FAILED: "red",
    pb.SERVER_STATE_CONNECTING: "yellow",
    pb.SERVER_STATE_DISABLED: "dim",
}


def servers_table(servers: Iterable[pb.Server]) -> Grid:
    """One row per server."""
    table = Grid(
        Column("server"),
        Column("state"),
        Column("tools", right=True),
        Column("access", drop=1),
        Column("approval", drop=2),
        Column("reached by", min_cells=MIN_TEXT_CELLS, drop=3),
        Column("failure", min_cells=MIN_TEXT_CELLS, rare=True),
    )
    for server in servers:
        table.add(
            server.name,
            _state(server.state),
            str(server.tools),
            enum_word("ServerAccess", pb.ServerAccess.Name(server.access)),
            _approval(server.default_approval),
            Text(_reached(server)),
            Text(server.failure.message),
        )
    return table


def server_view(server: pb.Server) -> Group:
    """One server."""
    parts: list[Grid | Text | str] = [servers_table([server])]
    if server.server_name:
        parts += ["", Text(f"{server.server_name} {server.server_version}".rstrip())]
    if server.tools_left_out:
        parts.append(Text(f"{server.tools_left_out} more tools cannot be used"))
    names = [*server.stdio.environment, *server.http.headers]
    if names:
        parts.append(Text(f"with secret values of {', '.join(sorted(names))}"))
    return Group(*parts)


def tools_table(tools: Iterable[pb.Tool]) -> Grid:
    """One row per tool."""
    table = Grid(
        Column("function"),
        Column("approval"),
        Column("hints", drop=1),
        Column("description", min_cells=MIN_TEXT_CELLS),
    )
    for tool in tools:
        hints = [
            word
            for word, is_so in (("reads", tool.read_only), ("may destroy", tool.destructive))
            if is_so
        ]
        first = (tool.description or tool.title).strip().partition("\n")[0]
        table.add(tool.function, _approval(tool.approval), ", ".join(hints), Text(first))
    return table


def calls_table(calls: Iterable[pb.ToolCallRecord]) -> Grid:
    """One row per call."""
    table = Grid(
        Column("time"),
        Column("tool"),
        Column("by", drop=2),
        Column("took", right=True, drop=3),
        Column("result", right=True, drop=4),
        Column("outcome", min_cells=MIN_TEXT_CELLS),
    )
    for call in calls:
        table.add(
            f"{call.time.ToDatetime():%Y-%m-%d %H:%M:%S}",
            f"{call.server}.{call.tool}",
            call.principal,
            f"{call.duration_ms:.0f} ms",
            f"{call.result_bytes} B",
            _outcome(call),
        )
    return table


def _outcome(call: pb.ToolCallRecord) -> Text:
    if call.HasField("failure"):
        return Text(call.failure.message or call.failure.reason, style="red")
    return Text("the tool failed", style="yellow") if call.is_error else Text("ok", style="green")


def _state(state: pb.ServerState.ValueType) -> Text:
    return Text(enum_word("ServerState", pb.ServerState.Name(state)), style=_STYLES.get(state, ""))


def _approval(approval: pb.Approval.ValueType) -> str:
    return enum_word("Approval", pb.Approval.Name(approval))


def _reached(server: pb.Server) -> str:
    if server.WhichOneof("transport") == "http":
        return server.http.url
    return shlex.join(server.stdio.command)
