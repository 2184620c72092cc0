"""What the gateway asks of a tools service: the real one, and the one that tests write."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.tool.v1 import tool_pb2 as t
from mlxmesh.tool.v1.tool_pb2_grpc import ToolServiceStub
from mlxmesh_shared.errors import (
    MeshError,
    ToolDenied,
    ToolNeedsApproval,
    ToolNotFound,
    ToolServerNotFound,
)
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.scripted_tools import ScriptedTools, tool, tools_server
from tests.integration.tools.conftest import ADMIN, Services

SERVER = Path(__file__).parent.parent / "fakes" / "mcp" / "stdio_server.py"


@pytest.fixture(params=["scripted", "real"])
async def stub(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """A stub of a service with the server `demo`: echo always, add asks, fail never."""
    async with AsyncExitStack() as stack:
        if request.param == "real":
            service = await Services(stack, tmp_path).start()
            await service.add("demo", (sys.executable, str(SERVER)))
            for name, approval in (("add", t.APPROVAL_ASK), ("fail", t.APPROVAL_NEVER)):
                policy = t.SetToolPolicyRequest(server="demo", tool=name, approval=approval)
                await service.stub.SetToolPolicy(policy, metadata=ADMIN)
            yield service.stub
            return
        scripted = ScriptedTools(
            tool("demo", "echo"),
            tool("demo", "add", approval=t.APPROVAL_ASK),
            tool("demo", "fail", approval=t.APPROVAL_NEVER),
        )
        scripted.results["echo"] = t.CallToolResponse(text="hello")
        scripted.results["add"] = t.CallToolResponse(text="3")
        server = tools_server(scripted)
        address = await server.start()
        stack.push_async_callback(server.drain, 0, 0)
        channel = await stack.enter_async_context(open_channel(address))
        yield ToolServiceStub(channel)


async def call(stub: Any, tool_name: str, arguments: dict[str, Any], **more: Any) -> Any:
    request = t.CallToolRequest(
        **{"server": "demo", **more}, tool=tool_name, arguments_json=json.dumps(arguments)
    )
    return await stub.CallTool(request, metadata=ADMIN)


async def test_tools_have_functions_schemas_and_policies(stub: Any) -> None:
    found = await stub.ListTools(t.ListToolsRequest(server="demo"), metadata=ADMIN)
    tools = {one.name: one for one in found.tools}
    assert {name: tools[name].approval for name in ("echo", "add", "fail")} == {
        "echo": t.APPROVAL_ALWAYS,
        "add": t.APPROVAL_ASK,
        "fail": t.APPROVAL_NEVER,
    }
    assert tools["echo"].function == "demo__echo"
    assert json.loads(tools["echo"].input_schema_json)["type"] == "object"


async def test_a_call_returns_the_text(stub: Any) -> None:
    response = await call(stub, "echo", {"text": "hello"})
    assert (response.text, response.is_error) == ("hello", False)


async def test_an_approval_is_asked_for(stub: Any) -> None:
    with pytest.raises(ToolNeedsApproval):
        await call(stub, "add", {"a": 1, "b": 2})
    assert (await call(stub, "add", {"a": 1, "b": 2}, approved=True)).text == "3"


async def test_a_denied_call_is_not_approved_by_its_caller(stub: Any) -> None:
    with pytest.raises(ToolDenied):
        await call(stub, "fail", {"text": "x"}, approved=True)


@pytest.mark.parametrize(
    ("server", "name", "error"),
    [("other", "echo", ToolServerNotFound), ("demo", "nothing", ToolNotFound)],
)
async def test_what_is_not_there(stub: Any, server: str, name: str, error: type[MeshError]) -> None:
    with pytest.raises(error):
        await call(stub, name, {}, server=server)
    with pytest.raises(ToolServerNotFound):
        await stub.ListTools(t.ListToolsRequest(server="other"), metadata=ADMIN)
