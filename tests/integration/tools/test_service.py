"""Who may do what with servers and tools, and what is recorded, over both kinds of database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mlxmesh.tool.v1 import tool_pb2 as pb
from mlxmesh_access.assembly import SERVICE_NAMES as ACCESS_NAMES
from mlxmesh_access.assembly import open_access
from mlxmesh_shared.errors import (
    InvalidArgument,
    QueueFull,
    ToolDenied,
    ToolNeedsApproval,
    ToolNotFound,
    ToolServerNotFound,
    ToolServerUnavailable,
)
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import AccessSettings
from mlxmesh_shared.sql.urls import DatabaseUrl
from mlxmesh_tools.domain import limits
from tests.fakes.mcp_connection import FakeServers, listed
from tests.fakes.sign_in_rig import CHEAP
from tests.integration.tools.conftest import ADA, ADMIN, Service, Services, metadata

BOB = metadata("user:bob")
EVERYONE = pb.SERVER_ACCESS_EVERYONE


@pytest.fixture
def fake() -> FakeServers:
    return FakeServers()


@pytest.fixture
async def service(
    database: DatabaseUrl, tmp_path: Path, fake: FakeServers
) -> AsyncGenerator[Service]:
    async with AsyncExitStack() as stack:
        yield await Services(stack, tmp_path).start(database, connect=fake)


async def test_a_server_is_there_only_for_those_who_may_use_it(service: Service) -> None:
    await service.add("own", ("x",))
    await service.add("shared", ("secret-command",), access=EVERYONE)
    names = [tool.function for tool in await service.tools(by=ADA)]
    assert names == ["shared__echo", "shared__sleep"]
    assert len(await service.tools()) == 4
    shown = await service.server("shared", by=ADA)
    assert not shown.WhichOneof("transport")
    assert (await service.call("shared__echo", '{"text": "a"}', by=ADA)).text == "a"
    with pytest.raises(ToolNotFound):
        await service.call("own__echo", '{"text": "a"}', by=ADA)
    with pytest.raises(ToolServerNotFound):
        await service.tools("own", by=ADA)


async def test_policies_decide_about_approvals(service: Service, fake: FakeServers) -> None:
    await service.add("a", ("x",), default_approval=pb.APPROVAL_UNSPECIFIED)
    with pytest.raises(ToolNeedsApproval):
        await service.call("a__echo", '{"text": "hi"}')
    assert not await service.calls()
    await service.call("a__echo", '{"text": "hi"}', approved=True)
    for approval in (pb.APPROVAL_NEVER, pb.APPROVAL_ALWAYS):
        request = pb.SetToolPolicyRequest(server="a", tool="echo", approval=approval)
        reply = await service.stub.SetToolPolicy(request, metadata=ADMIN)
        assert reply.tool.approval == approval
        if approval == pb.APPROVAL_NEVER:
            with pytest.raises(ToolDenied):
                await service.call("a__echo", '{"text": "hi"}', approved=True)
    await service.call("a__echo", '{"text": "hi"}')
    assert len(fake.calls) == 2
    records = await service.calls()
    assert [each.failure.reason for each in records] == ["", "TOOL_DENIED", ""]


@pytest.mark.parametrize("arguments", ["[]", "{", '{"text": 1}', '{"text": NaN}', "null", '"a"'])
async def test_arguments_that_do_not_fit_never_reach_a_server(
    service: Service, fake: FakeServers, arguments: str
) -> None:
    await service.add("a", ("x",))
    with pytest.raises(InvalidArgument) as refused:
        await service.call("a__echo", arguments)
    assert refused.value.field == "arguments_json"
    assert not fake.calls


async def test_records_have_sizes_and_hashes_and_are_ones_own(service: Service) -> None:
    await service.add("a", ("x",), access=EVERYONE)
    await service.call("a__echo", '{"text": "content"}', by=ADA, request_id="r1")
    await service.call("a__echo", '{"text": "content"}', by=BOB)
    [mine] = await service.calls(by=ADA)
    assert (mine.principal, mine.request_id, mine.arguments_bytes) == ("user:ada", "r1", 19)
    assert len(mine.result_sha256) == 64
    assert "content" not in str(mine)
    assert not await service.calls(by=ADA, principal="user:bob")
    assert len(await service.calls()) == 2
    first = await service.stub.ListToolCalls(pb.ListToolCallsRequest(page_size=1), metadata=ADMIN)
    second = pb.ListToolCallsRequest(page_size=1, page_token=first.next_page_token)
    page = await service.stub.ListToolCalls(second, metadata=ADMIN)
    assert [each.principal for each in [*first.calls, *page.calls]] == ["user:bob", "user:ada"]
    assert not page.next_page_token


async def test_secrets_are_encrypted_never_returned_and_kept(
    service: Service, tmp_path: Path
) -> None:
    stdio = pb.StdioTransport(command=["x"], environment={"KEY": "s3cret-value"})
    added = await service.add("a", stdio=stdio)
    assert dict(added.stdio.environment) == {"KEY": ""}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"s3cret-value" not in path.read_bytes()
    # As it was returned, with one more variable.
    added.stdio.environment["OTHER"] = "other-value"
    await service.update("a", stdio=added.stdio)
    stored = (await service.service.store.all()).servers["a"].transport
    assert stored.environment == {"KEY": "s3cret-value", "OTHER": "other-value"}  # pyright: ignore[reportAttributeAccessIssue]
    assert (tmp_path / "tools.secret").stat().st_mode & 0o077 == 0


async def test_calls_at_once_are_limited(service: Service, fake: FakeServers) -> None:
    await service.add("a", ("x",), limits=pb.ServerLimits(max_calls_at_once=2))
    calls = [asyncio.ensure_future(service.call("a__sleep", "{}")) for _ in range(66)]
    async with asyncio.timeout(20):
        while (supervisor := service.service.servers.supervisor("a")) is None or (
            fake.running < 2 or supervisor.waiting < limits.MAX_WAITING_CALLS
        ):
            await asyncio.sleep(0.01)
    with pytest.raises(QueueFull):
        await service.call("a__sleep", "{}")
    fake.release.set()
    await asyncio.gather(*calls)
    assert fake.most_running == 2


async def test_a_changed_policy_does_not_disconnect(service: Service, fake: FakeServers) -> None:
    await service.add("a", ("x",))
    await service.update("a", access=EVERYONE, default_approval=pb.APPROVAL_ASK)
    assert fake.opened == 1
    await service.update("a", stdio=pb.StdioTransport(command=["y"]))
    assert fake.opened == 2


async def test_a_list_that_changed_is_read_again(service: Service, fake: FakeServers) -> None:
    await service.add("a", ("x",))
    fake.tools = (listed("new"),)
    fake.connections[-1].changed.set()
    async with asyncio.timeout(20):
        while [tool.name for tool in await service.tools()] != ["new"]:
            await asyncio.sleep(0.01)


async def test_a_lost_server_is_connected_again(service: Service, fake: FakeServers) -> None:
    await service.add("a", ("x",))
    fake.down = "it is away"
    fake.connections[-1].closed.set()
    await service.until("a", pb.SERVER_STATE_FAILED)
    with pytest.raises(ToolServerUnavailable, match="it is away"):
        await service.call("a__echo", '{"text": "hi"}')
    fake.down = ""
    await service.until("a", pb.SERVER_STATE_READY)
    assert (await service.call("a__echo", '{"text": "hi"}')).text == "hi"


async def test_the_audit_log_gets_what_was_changed_and_called(
    services: Services, fake: FakeServers, tmp_path: Path
) -> None:
    service = await services.start(connect=fake)
    await service.add("a", ("x",))
    await service.call("a__echo", '{"text": "content"}')
    async with AsyncExitStack() as stack:
        # The access service comes later.
        access = await open_access(stack, AccessSettings(data_dir=tmp_path), password_cost=CHEAP)
        server = MeshServer(services=access.services(), service_names=ACCESS_NAMES)
        stack.push_async_callback(server.drain, 0, 0)
        instance = Instance("access", "access-1", await server.start(), 1)
        await services.registry.register(instance)
        stack.push_async_callback(services.registry.deregister, instance)
        async with asyncio.timeout(30):
            while await service.service.store.audit_entries(10):
                await asyncio.sleep(0.05)
        from mlxmesh_access import audit_log

        found = await access.database.transactions.read(
            lambda session: audit_log.entries(session, actor="", before=2**62, limit=10)
        )
    assert [(one.actor, one.action, one.target) for one in reversed(found)] == [
        ("user:root", "tools.server_added", "a"),
        ("user:root", "tools.called", "a.echo"),
    ]
    assert "content" not in str(found)


async def test_a_call_waits_for_a_server_that_is_being_connected(
    services: Services, fake: FakeServers
) -> None:
    first = await services.start(connect=fake)
    await first.add("a", ("x",))
    fake.hold.clear()
    second = await services.start(connect=fake)
    call = asyncio.ensure_future(second.call("a__echo", '{"text": "hi"}'))
    await asyncio.sleep(0.1)
    assert not call.done()
    fake.hold.set()
    assert (await call).text == "hi"


async def test_a_server_that_was_never_reached_is_unavailable(
    services: Services, fake: FakeServers
) -> None:
    fake.down = "it is away"
    service = await services.start(connect=fake)
    await service.add("a", ("x",), access=EVERYONE)
    with pytest.raises(ToolServerUnavailable, match="it is away"):
        await service.call("a__echo", "{}")
    with pytest.raises(ToolServerUnavailable) as shown:
        await service.call("a__echo", "{}", by=ADA)
    assert "it is away" not in str(shown.value)
