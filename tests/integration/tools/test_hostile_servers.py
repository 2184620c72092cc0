"""MCP servers that misbehave harm nobody else, and are told apart from those that work."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import psutil
import pytest

from mlxmesh.tool.v1 import tool_pb2 as pb
from mlxmesh_shared.errors import DeadlineExceeded, InvalidArgument, ToolServerUnavailable
from mlxmesh_tools.domain import limits
from mlxmesh_tools.servers.supervisor import Timing
from tests.fakes.mcp.commands import hostile_server, stdio_server
from tests.fakes.mcp.http_server import hostile_app, sdk_app, serving
from tests.integration.tools.conftest import ADA, Service, Services

QUICK = Timing(connect_timeout_s=60, min_delay_s=0.01, max_delay_s=0.05, relist_interval_s=0.2)
IMPATIENT = replace(QUICK, connect_timeout_s=4)


async def works(service: Service) -> None:
    """Another server of the same service can be used."""
    await service.add("good", hostile_server("obedient"))
    await service.until("good", pb.SERVER_STATE_READY)
    assert (await service.call("good__call")).text == "called"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("silent", "did not answer within 4 s"),
        ("garbage", "not MCP"),
        ("line", "too large"),
        ("exits", "no configuration"),
    ],
)
async def test_a_server_that_does_not_speak_mcp_has_failed(
    services: Services, how: str, said: str
) -> None:
    timing = IMPATIENT if how == "silent" else QUICK
    service = await services.start(timing=timing)
    added = await service.add("bad", hostile_server(how))
    assert added.state == pb.SERVER_STATE_FAILED
    assert said in added.failure.message
    await works(service)


async def test_a_server_that_ends_at_a_first_message_of_newer_clients_is_reached(
    service: Service,
) -> None:
    await service.add("picky", hostile_server("picky"))
    found = await service.until("picky", pb.SERVER_STATE_READY)
    assert found.tools == 1


@pytest.mark.parametrize(
    ("how", "tools", "left_out"),
    [("many", limits.MAX_TOOLS, 9750), ("same", 2, 1), ("names", 3, 3), ("endless", 1, 19)],
)
async def test_tools_are_bounded(service: Service, how: str, tools: int, left_out: int) -> None:
    added = await service.add("bad", hostile_server(how))
    assert (added.tools, added.tools_left_out) == (tools, left_out), added.failure
    functions = [tool.function for tool in await service.tools()]
    assert len(set(functions)) == tools
    assert all(len(name) <= 64 for name in functions)
    assert len(added.server_name) == limits.MAX_TITLE_CHARACTERS
    assert "\x1b" not in added.server_name


async def test_schemas_are_bounded_and_checks_end(service: Service) -> None:
    await service.add("bad", hostile_server("schemas"))
    names = {tool.name for tool in await service.tools()}
    assert names == {"exponential", "remote", "pattern", "invalid", "fine"}
    for name in ("remote", "invalid"):
        with pytest.raises(InvalidArgument, match="not valid"):
            await service.call(f"bad__{name}", "{}")
    with pytest.raises(InvalidArgument):
        await service.call("bad__pattern", json.dumps({"a": "a" * 50_000 + "b"}))
    nested: dict[str, object] = {}
    for _ in range(20):
        nested = {"x": nested}
    assert (await service.call("bad__exponential", json.dumps(nested))).text == "called"
    assert (await service.call("bad__fine", "{}")).text == "called"


async def test_text_of_servers_has_no_control_characters(service: Service) -> None:
    await service.add("bad", hostile_server("markup"))
    [tool] = await service.tools()
    assert not set("\x1b\x00") & set(tool.description)
    # The text itself is shown as text, whoever shows it.
    assert tool.title == "<script>alert(1)</script>"


@pytest.mark.parametrize("how", ["dies", "huge"])
async def test_a_server_that_breaks_a_call_fails_it(service: Service, how: str) -> None:
    await service.add("bad", hostile_server(how))
    with pytest.raises(ToolServerUnavailable):
        await service.call("bad__call")
    [record] = await service.calls()
    assert record.failure.reason == "TOOL_SERVER_UNAVAILABLE"
    await works(service)


async def test_a_client_does_not_see_what_a_command_writes(service: Service) -> None:
    await service.add("bad", hostile_server("dies"), access=pb.SERVER_ACCESS_EVERYONE)
    with pytest.raises(ToolServerUnavailable) as refused:
        await service.call("bad__call", by=ADA)
    assert "the end is near" not in str(refused.value)
    [record] = await service.calls(by=ADA)
    assert "the end is near" not in record.failure.message
    [record] = await service.calls()
    assert "the end is near" in record.failure.message


async def test_calls_of_a_server_that_hangs_end_and_it_can_be_removed(service: Service) -> None:
    await service.add("bad", hostile_server("hangs"), limits=pb.ServerLimits(timeout_ms=200))
    with pytest.raises(DeadlineExceeded):
        await service.call("bad__call")
    await service.remove("bad")
    children = psutil.Process().children(recursive=True)
    assert not [one for one in children if "hostile_server.py" in " ".join(one.cmdline())]


@pytest.mark.parametrize("how", ["result", "error"])
async def test_what_is_wrong_with_a_result_is_an_error_of_the_tool(
    service: Service, how: str
) -> None:
    await service.add("bad", hostile_server(how))
    result = await service.call("bad__call")
    assert result.is_error
    assert result.text
    assert "\x1b" not in result.text


async def test_a_server_that_asks_for_sampling_is_refused(service: Service) -> None:
    await service.add("bad", hostile_server("asks"))
    assert (await service.call("bad__call")).text == "asked"


async def test_a_server_that_never_stops_talking_is_ended(services: Services) -> None:
    service = await services.start(timing=QUICK)
    await service.add("bad", hostile_server("notifies"))
    async with asyncio.timeout(30):
        while "more than a client can read" not in (await service.server("bad")).failure.message:
            await asyncio.sleep(0.05)
    await works(service)


async def test_results_are_cut_off(service: Service) -> None:
    limit = pb.ServerLimits(max_result_bytes=10_000)
    await service.add("bad", hostile_server("blocks"), limits=limit)
    result = await service.call("bad__call")
    blocks = json.loads(result.content_json)
    assert result.truncated
    assert blocks[0]["text"] == "é" * 1000
    assert "2 blocks are left out" in blocks[-1]["text"]
    await service.add("fake", stdio_server(), limits=limit)
    long = await service.call("fake__large", '{"characters": 1000000}')
    assert long.truncated
    assert 9_000 < len(long.text) < 10_000


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("refuses", "401 Unauthorized"),
        ("redirects", ""),
        ("floods", "too large"),
        ("hangs", "did not answer within 4 s"),
        ("events", "more than a client can read"),
        ("page", "text/html"),
    ],
)
async def test_a_url_that_is_no_mcp_server_has_failed(
    services: Services, how: str, said: str
) -> None:
    service = await services.start(timing=IMPATIENT if how == "hangs" else QUICK)
    seen: list[dict[str, str]] = []
    async with (
        serving(sdk_app(seen)) as elsewhere,
        serving(hostile_app(how, elsewhere)) as url,
    ):
        http = pb.HttpTransport(url=url, headers={"authorization": "Bearer s3cret"})
        added = await service.add("bad", http=http)
        assert added.state == pb.SERVER_STATE_FAILED
        assert said in added.failure.message
        assert "s3cret" not in str(added)
        assert not seen, "the other host got the headers"
        await service.remove("bad")
