"""MCP servers that are commands: from their start to the end of everything that they started."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh.tool.v1 import tool_pb2 as pb
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    IllegalState,
    InvalidArgument,
    ToolNotFound,
    ToolServerExists,
    ToolServerNotFound,
    ToolServerUnavailable,
)
from mlxmesh_shared.rpc.caller import AUTHENTICATION_METADATA
from tests.fakes.mcp.commands import stdio_server
from tests.integration.tools.conftest import Service, Services, metadata


async def gone(pid: int) -> None:
    """Returns once a process has ended."""
    async with asyncio.timeout(20):
        while psutil.pid_exists(pid):
            with suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                    return
            await asyncio.sleep(0.01)


async def test_a_server_is_added_and_its_tools_are_called(service: Service) -> None:
    added = await service.add("fake", stdio_server())
    assert (added.state, added.server_name, added.server_version) == (
        pb.SERVER_STATE_READY, "fake", "1.2",
    )  # fmt: skip
    tools = {tool.function: tool for tool in await service.tools()}
    assert tools["fake__echo"].read_only
    assert tools["fake__crash"].destructive
    result = await service.call("fake__echo", '{"text": "hi"}')
    assert (result.text, result.structured_json, result.is_error) == (
        "hi",
        '{"result":"hi"}',
        False,
    )
    failed = await service.call("fake__fail", '{"text": "no"}')
    assert failed.is_error
    names = [type(event).__name__ for event in service.events]
    assert names == ["ToolServerAdded", "ToolServerReady", "ToolCalled", "ToolCalled"] or sorted(
        names
    ) == sorted(["ToolServerAdded", "ToolServerReady", "ToolCalled", "ToolCalled"])
    with pytest.raises(ToolServerExists):
        await service.add("fake", stdio_server())
    with pytest.raises(ToolNotFound):
        await service.call("fake__nothing")
    with pytest.raises(ToolServerNotFound):
        await service.stub.CallTool(pb.CallToolRequest(server="none", tool="x"))


async def test_a_command_gets_nothing_of_the_environment_but_what_it_needs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXMESH_API_KEY", "secret")
    stdio = pb.StdioTransport(command=stdio_server(), environment={"TOKEN": "t0ken"})
    await service.add("fake", stdio=stdio)
    text = (await service.call("fake__environment")).text
    assert "t0ken" in text
    assert "MLXMESH_API_KEY" not in text
    where = (await service.call("fake__where")).text
    assert str(Path.cwd()) not in where


async def test_removing_a_server_ends_everything_that_it_started(service: Service) -> None:
    await service.add("fake", stdio_server("stubborn"))
    child = int((await service.call("fake__start_child", "{}")).text)
    # It left the process group and its parent will be gone.
    daemon = int((await service.call("fake__start_child", '{"leave": true}')).text)
    assert psutil.pid_exists(child)
    assert psutil.pid_exists(daemon)
    await service.remove("fake")
    await gone(child)
    await gone(daemon)
    assert [type(event) for event in service.events][-1] is events.ToolServerRemoved


async def test_a_disabled_server_runs_no_more_until_it_is_enabled(service: Service) -> None:
    await service.add("fake", stdio_server())
    child = int((await service.call("fake__start_child", "{}")).text)
    disabled = await service.update("fake", disabled=True)
    assert disabled.state == pb.SERVER_STATE_DISABLED
    await gone(child)
    assert not await service.tools()
    with pytest.raises(ToolNotFound):
        await service.call("fake__echo", '{"text": "hi"}')
    enabled = await service.update("fake", disabled=False)
    assert enabled.state == pb.SERVER_STATE_READY
    assert (await service.call("fake__echo", '{"text": "hi"}')).text == "hi"


async def test_a_server_that_dies_in_mid_call_fails_the_call_and_comes_back(
    service: Service,
) -> None:
    await service.add("fake", stdio_server())
    with pytest.raises(ToolServerUnavailable, match="I am gone"):
        await service.call("fake__crash")
    # It is connected again while the next call waits.
    assert (await service.call("fake__echo", '{"text": "hi"}')).text == "hi"


async def test_the_rest_of_a_crashed_server_is_killed(service: Service) -> None:
    await service.add("fake", stdio_server())
    daemon = int((await service.call("fake__start_child", '{"leave": true}')).text)
    with pytest.raises(ToolServerUnavailable):
        await service.call("fake__crash")
    await gone(daemon)


async def test_a_killed_keeper_leaves_nothing_behind(service: Service) -> None:
    await service.add("fake", stdio_server("stubborn"))
    where = (await service.call("fake__where")).structured_json
    pid = int(where.partition('"pid":')[2].partition(",")[0])
    keeper = psutil.Process(pid).ppid()
    os.kill(keeper, signal.SIGKILL)
    await gone(pid)


async def test_a_call_takes_no_longer_than_its_limit(service: Service, tmp_path: Path) -> None:
    await service.add("fake", stdio_server(), limits=pb.ServerLimits(timeout_ms=2_000))
    said = tmp_path / "said"
    with pytest.raises(DeadlineExceeded, match="2 s"):
        await service.call("fake__sleep", f'{{"seconds": 60, "path": "{said}"}}')
    async with asyncio.timeout(30):
        while not said.exists() or said.read_text() != "cancelled":
            await asyncio.sleep(0.01)
    [record] = await service.calls()
    assert record.failure.reason == "DEADLINE_EXCEEDED"


async def test_cancelling_a_call_cancels_the_tool(service: Service, tmp_path: Path) -> None:
    await service.add("fake", stdio_server())
    said = tmp_path / "said"
    call = service.call("fake__sleep", f'{{"seconds": 60, "path": "{said}"}}')
    async with asyncio.timeout(30):
        while not said.exists():
            await asyncio.sleep(0.01)
        call.cancel()
        while said.read_text() != "cancelled":
            await asyncio.sleep(0.01)
        while not (found := await service.calls()):
            await asyncio.sleep(0.01)
    assert found[0].failure.reason == "CANCELLED"


async def test_a_tool_that_is_learned_is_listed(service: Service) -> None:
    await service.add("fake", stdio_server())
    await service.call("fake__learn", '{"name": "sing"}')
    async with asyncio.timeout(20):
        while "fake__sing" not in {tool.function for tool in await service.tools()}:
            await asyncio.sleep(0.01)
    assert (await service.call("fake__sing")).text == "sing"


async def test_a_command_that_cannot_be_started_says_so(service: Service) -> None:
    added = await service.add("bad", ("/nothing/here",))
    assert added.state == pb.SERVER_STATE_FAILED
    assert "No such file" in added.failure.message
    stdio = pb.StdioTransport(command=stdio_server())
    assert (await service.update("bad", stdio=stdio)).state == pb.SERVER_STATE_READY


async def test_servers_are_connected_again_by_the_next_service(services: Services) -> None:
    first = await services.start()
    await first.add("fake", stdio_server())
    second = await services.start()
    await second.until("fake", pb.SERVER_STATE_READY)
    await first.remove("fake")
    async with asyncio.timeout(20):
        while await second.tools():
            await asyncio.sleep(0.05)


async def test_commands_need_an_administrator_who_is_known(services: Services) -> None:
    service = await services.start()
    nobody = (*metadata("anonymous", admin=True), (AUTHENTICATION_METADATA, "off"))
    transport = pb.StdioTransport(command=stdio_server())
    request = pb.AddServerRequest(name="fake", stdio=transport)
    with pytest.raises(IllegalState, match="mlxmesh users create"):
        await service.stub.AddServer(request, metadata=nobody)
    remote = pb.AddServerRequest(name="fake", http=pb.HttpTransport(url="http://127.0.0.1:9/mcp"))
    await service.stub.AddServer(remote, metadata=nobody)
    change = pb.UpdateServerRequest(name="fake", stdio=transport)
    with pytest.raises(IllegalState, match="stdio_without_users"):
        await service.stub.UpdateServer(change, metadata=nobody)


async def test_commands_can_be_turned_off(services: Services) -> None:
    service = await services.start(stdio_servers=False)
    with pytest.raises(InvalidArgument, match="turned off"):
        await service.add("fake", stdio_server())
