"""A tools service whose servers and results a test writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from mlxmesh.tool.v1 import tool_pb2 as t
from mlxmesh.tool.v1.tool_pb2_grpc import ToolServiceServicer, add_ToolServiceServicer_to_server
from mlxmesh_shared.errors import (
    MeshError,
    NotImplementedYet,
    ToolDenied,
    ToolNeedsApproval,
    ToolNotFound,
    ToolServerNotFound,
)
from mlxmesh_shared.rpc.server import MeshServer

SERVICE = t.DESCRIPTOR.services_by_name["ToolService"].full_name
_ANY = json.dumps({"type": "object", "properties": {"text": {"type": "string"}}})


def tool(
    server: str,
    name: str,
    *,
    approval: t.Approval.ValueType = t.APPROVAL_ALWAYS,
    read_only: bool = False,
) -> t.Tool:
    return t.Tool(
        server=server,
        name=name,
        function=f"{server}__{name}",
        description=f"Does {name}.",
        input_schema_json=_ANY,
        approval=approval,
        read_only=read_only,
    )


class ScriptedTools(ToolServiceServicer):
    """Knows the tools that a test gave it."""

    def __init__(self, *tools: t.Tool) -> None:
        self.tools = list(tools)
        self.results: dict[str, t.CallToolResponse | MeshError] = {}
        """By the names of tools; another one returns its arguments."""
        self.calls: list[t.CallToolRequest] = []
        self.metadata: list[Mapping[str, Any]] = []
        self.list_failure: MeshError | None = None
        self.go_on = asyncio.Event()
        """Cleared, it holds calls back."""
        self.go_on.set()
        self.interrupted = 0

    async def ListTools(self, request: Any, context: Any) -> t.ListToolsResponse:
        if self.list_failure is not None:
            raise self.list_failure
        found = [one for one in self.tools if request.server in ("", one.server)]
        if request.server and not found:
            raise ToolServerNotFound("there is no such server", field="server")
        return t.ListToolsResponse(tools=found)

    async def CallTool(self, request: Any, context: Any) -> t.CallToolResponse:
        found = [one for one in self.tools if one.server == request.server]
        if not found:
            raise ToolServerNotFound(f"there is no MCP server {request.server}", field="server")
        wanted = next((one for one in found if one.name == request.tool), None)
        if wanted is None:
            raise ToolNotFound("it has no such tool", field="tool")
        if wanted.approval == t.APPROVAL_NEVER:
            raise ToolDenied("its policy denies it")
        if wanted.approval == t.APPROVAL_ASK and not request.approved:
            raise ToolNeedsApproval("its policy asks for an approval")
        self.calls.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.interrupted += 1
            raise
        result = self.results.get(request.tool)
        if isinstance(result, MeshError):
            raise result
        return result or t.CallToolResponse(text=f"echo {request.arguments_json}")

    async def AddServer(self, request: Any, context: Any) -> t.AddServerResponse:
        raise _not_here()

    async def UpdateServer(self, request: Any, context: Any) -> t.UpdateServerResponse:
        raise _not_here()

    async def RemoveServer(self, request: Any, context: Any) -> t.RemoveServerResponse:
        raise _not_here()

    async def ListServers(self, request: Any, context: Any) -> t.ListServersResponse:
        raise _not_here()

    async def RefreshServer(self, request: Any, context: Any) -> t.RefreshServerResponse:
        raise _not_here()

    async def SetToolPolicy(self, request: Any, context: Any) -> t.SetToolPolicyResponse:
        raise _not_here()

    async def ListToolCalls(self, request: Any, context: Any) -> t.ListToolCallsResponse:
        raise _not_here()


def _not_here() -> MeshError:
    return NotImplementedYet("a test writes the tools; nobody administers them")


def tools_server(servicer: ScriptedTools) -> MeshServer:
    """A server of it; the caller starts and stops it."""
    services = [(add_ToolServiceServicer_to_server, servicer)]
    return MeshServer(services=services, service_names=[SERVICE])
