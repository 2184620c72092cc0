"""The client's methods for MCP servers and their tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from grpc import aio

from mlxmesh.tool.v1 import tool_pb2 as pb
from mlxmesh.tool.v1.tool_pb2_grpc import ToolServiceStub
from mlxmesh_client.calls import Calls
from mlxmesh_shared.errors import InvalidArgument


class ToolsClient:
    """MCP servers and their tools; `MeshClient.tools` has it.

    await mesh.tools.add("files", command=["npx", "some-mcp-server", "/data"])
    result = await mesh.tools.call("files", "read", {"path": "a.txt"}, approved=True)
    """

    def __init__(self, channel: aio.Channel, calls: Calls) -> None:
        self._stub = ToolServiceStub(channel)
        self._calls = calls

    async def add(
        self,
        name: str,
        *,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        directory: str = "",
        url: str = "",
        headers: Mapping[str, str] | None = None,
        access: pb.ServerAccess.ValueType = pb.SERVER_ACCESS_UNSPECIFIED,
        limits: pb.ServerLimits | None = None,
        default_approval: pb.Approval.ValueType = pb.APPROVAL_UNSPECIFIED,
        disabled: bool = False,
        timeout_s: float | None = None,
    ) -> pb.Server:
        """Adds an MCP server: a command with its environment, or a URL with its headers.

        One that does not answer is added all the same, with its failure. Raises: ToolServerExists.
        """
        request = pb.AddServerRequest(
            name=name,
            access=access,
            limits=limits,
            default_approval=default_approval,
            disabled=disabled,
        )
        _set_transport(request, command, environment, directory, url, headers)
        return (
            await self._calls.unary(self._stub.AddServer, request, timeout_s, safe=False)
        ).server

    async def update(
        self,
        name: str,
        *,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        directory: str = "",
        url: str = "",
        headers: Mapping[str, str] | None = None,
        access: pb.ServerAccess.ValueType | None = None,
        limits: pb.ServerLimits | None = None,
        default_approval: pb.Approval.ValueType | None = None,
        disabled: bool | None = None,
        timeout_s: float | None = None,
    ) -> pb.Server:
        """Changes an MCP server; what is not given stays. An empty value of the environment or a
        header keeps the one of before. Raises: ToolServerNotFound.
        """
        request = pb.UpdateServerRequest(
            name=name,
            access=access,
            limits=limits,
            default_approval=default_approval,
            disabled=disabled,
        )
        if command or url:
            _set_transport(request, command, environment, directory, url, headers)
        reply = await self._calls.unary(self._stub.UpdateServer, request, timeout_s, safe=False)
        return reply.server

    async def remove(self, name: str, *, timeout_s: float | None = None) -> None:
        """Removes an MCP server and ends its process. Raises: ToolServerNotFound."""
        request = pb.RemoveServerRequest(name=name)
        await self._calls.unary(self._stub.RemoveServer, request, timeout_s, safe=False)

    async def refresh(self, name: str, *, timeout_s: float | None = None) -> pb.Server:
        """Has an MCP server list its tools again, or connects to it. Raises: ToolServerNotFound."""
        request = pb.RefreshServerRequest(name=name)
        reply = await self._calls.unary(self._stub.RefreshServer, request, timeout_s, safe=False)
        return reply.server

    async def servers(self, *, timeout_s: float | None = None) -> list[pb.Server]:
        """Returns the MCP servers that the caller may use, by name."""
        request = pb.ListServersRequest()
        return [
            *(
                await self._calls.unary(self._stub.ListServers, request, timeout_s, safe=True)
            ).servers
        ]

    async def list(self, *, server: str = "", timeout_s: float | None = None) -> list[pb.Tool]:
        """Returns the tools that the caller may call; of one server, or of all."""
        request = pb.ListToolsRequest(server=server)
        return [
            *(await self._calls.unary(self._stub.ListTools, request, timeout_s, safe=True)).tools
        ]

    async def set_policy(
        self,
        server: str,
        tool: str,
        approval: pb.Approval.ValueType,
        *,
        timeout_s: float | None = None,
    ) -> pb.Tool:
        """Sets whether calls of a tool need an approval. Raises: ToolNotFound."""
        request = pb.SetToolPolicyRequest(server=server, tool=tool, approval=approval)
        reply = await self._calls.unary(self._stub.SetToolPolicy, request, timeout_s, safe=False)
        return reply.tool

    async def call(
        self,
        server: str = "",
        tool: str = "",
        arguments: Mapping[str, Any] | None = None,
        *,
        function: str = "",
        approved: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.CallToolResponse:
        """Calls a tool by its server and name, or by its `function` name.

        approved: whether a person has approved this call, where the tool's policy asks for it.
        Raises: ToolNeedsApproval, ToolDenied, ToolNotFound, ToolServerUnavailable.
        """
        try:
            text = json.dumps(arguments or {}, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"arguments must be JSON: {error}", field="arguments") from None
        request = pb.CallToolRequest(
            server=server,
            tool=tool,
            function=function,
            arguments_json=text,
            approved=approved,
            request_id=request_id,
        )
        return await self._calls.unary(self._stub.CallTool, request, timeout_s, safe=False)

    async def calls(
        self,
        *,
        server: str = "",
        principal: str = "",
        limit: int = 100,
        timeout_s: float | None = None,
    ) -> list[pb.ToolCallRecord]:
        """Returns records of calls, the newest first; at most `limit`."""
        found = list[pb.ToolCallRecord]()
        request = pb.ListToolCallsRequest(server=server, principal=principal)
        while len(found) < limit:
            request.page_size = min(1000, limit - len(found))
            page = await self._calls.unary(self._stub.ListToolCalls, request, timeout_s, safe=True)
            found += page.calls
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        return found


def _set_transport(
    request: pb.AddServerRequest | pb.UpdateServerRequest,
    command: Sequence[str],
    environment: Mapping[str, str] | None,
    directory: str,
    url: str,
    headers: Mapping[str, str] | None,
) -> None:
    """Raises: InvalidArgument."""
    if bool(command) == bool(url):
        raise InvalidArgument("name a command or a URL", field="transport")
    if url:
        request.http.CopyFrom(pb.HttpTransport(url=url, headers=headers))
    else:
        request.stdio.CopyFrom(
            pb.StdioTransport(command=command, environment=environment, directory=directory)
        )
