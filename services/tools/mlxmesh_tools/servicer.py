"""ToolService: each method checks, calls and replies."""

from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.tool.v1 import tool_pb2 as pb
from mlxmesh.tool.v1.tool_pb2_grpc import ToolServiceServicer
from mlxmesh_shared.page_tokens import from_page_token, to_page_token
from mlxmesh_shared.rpc.caller import forwarded_caller
from mlxmesh_tools import convert
from mlxmesh_tools.calls import ToolCalls
from mlxmesh_tools.tools import Tools

_Context = ServicerContext[Any, Any]
_DEFAULT_PAGE_SIZE = 100
_NEWEST = 2**62


class ToolServicer(ToolServiceServicer):
    """MCP servers and calls over gRPC; the contract documents each method."""

    def __init__(self, *, tools: Tools, calls: ToolCalls) -> None:
        self._tools = tools
        self._calls = calls

    async def AddServer(
        self, request: pb.AddServerRequest, context: _Context
    ) -> pb.AddServerResponse:
        view = await self._tools.add(forwarded_caller(context), convert.from_add(request))
        return pb.AddServerResponse(server=convert.to_server(view, is_admin=True))

    async def UpdateServer(
        self, request: pb.UpdateServerRequest, context: _Context
    ) -> pb.UpdateServerResponse:
        changed = convert.from_update(request)
        view = await self._tools.update(forwarded_caller(context), request.name, changed)
        return pb.UpdateServerResponse(server=convert.to_server(view, is_admin=True))

    async def RemoveServer(
        self, request: pb.RemoveServerRequest, context: _Context
    ) -> pb.RemoveServerResponse:
        await self._tools.remove(forwarded_caller(context), request.name)
        return pb.RemoveServerResponse()

    async def ListServers(
        self, request: pb.ListServersRequest, context: _Context
    ) -> pb.ListServersResponse:
        caller = forwarded_caller(context)
        found = self._tools.servers(caller)
        return pb.ListServersResponse(
            servers=[convert.to_server(view, is_admin=caller.is_admin) for view in found]
        )

    async def RefreshServer(
        self, request: pb.RefreshServerRequest, context: _Context
    ) -> pb.RefreshServerResponse:
        view = await self._tools.refresh(request.name)
        return pb.RefreshServerResponse(server=convert.to_server(view, is_admin=True))

    async def ListTools(
        self, request: pb.ListToolsRequest, context: _Context
    ) -> pb.ListToolsResponse:
        page = self._tools.tools(forwarded_caller(context), request.server)
        return pb.ListToolsResponse(
            tools=map(convert.to_tool, page.tools), tools_left_out=page.left_out
        )

    async def SetToolPolicy(
        self, request: pb.SetToolPolicyRequest, context: _Context
    ) -> pb.SetToolPolicyResponse:
        approval = convert.from_approval(request.approval, "approval")
        caller = forwarded_caller(context)
        view = await self._tools.set_policy(caller, request.server, request.tool, approval)
        return pb.SetToolPolicyResponse(tool=convert.to_tool(view))

    async def CallTool(self, request: pb.CallToolRequest, context: _Context) -> pb.CallToolResponse:
        asked = convert.from_call(request)
        return convert.to_called(await self._calls.call(forwarded_caller(context), asked))

    async def ListToolCalls(
        self, request: pb.ListToolCallsRequest, context: _Context
    ) -> pb.ListToolCallsResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        time_ms, call_id = from_page_token(request.page_token, (_NEWEST, ""))
        caller = forwarded_caller(context)
        found = await self._tools.calls(
            caller,
            principal=request.principal,
            server=request.server,
            before=(int(time_ms), str(call_id)),
            limit=size + 1,
        )
        page = found[:size]
        last = [page[-1].time_ms, page[-1].call_id] if len(found) > size else []
        return pb.ListToolCallsResponse(
            calls=[convert.to_record(each, is_admin=caller.is_admin) for each in page],
            next_page_token=to_page_token(last) if last else "",
        )
