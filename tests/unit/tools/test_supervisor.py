"""How a supervisor ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from mlxmesh_shared.errors import ToolServerUnavailable
from mlxmesh_tools.domain.models import CallRecord, Http, ServerConfig, ServerStatus
from mlxmesh_tools.servers.supervisor import Supervisor, Timing
from tests.fakes.mcp_connection import FakeConnection, FakeServers

QUICK = Timing(connect_timeout_s=10, min_delay_s=0.001, max_delay_s=0.001)


class Observer:
    """Hears of nothing."""

    def server_changed(self, config: ServerConfig, status: ServerStatus) -> None:
        pass

    def called(self, record: CallRecord) -> None:
        pass


@pytest.mark.parametrize("while_connecting", [True, False])
async def test_it_ends_though_the_session_breaks_while_it_is_cancelled(
    while_connecting: bool,
) -> None:
    opened = 0
    reached = asyncio.Event()

    @asynccontextmanager
    async def connect(config: ServerConfig) -> AsyncGenerator[FakeConnection]:
        nonlocal opened
        opened += 1
        try:
            if while_connecting:
                reached.set()
                await asyncio.Event().wait()
            asyncio.get_running_loop().call_soon(reached.set)
            yield FakeConnection(FakeServers())
        except asyncio.CancelledError:
            raise ToolServerUnavailable("the stream broke") from None

    supervisor = Supervisor(
        ServerConfig(name="a", transport=Http(url="http://x")), connect, Observer(), timing=QUICK
    )
    task = asyncio.create_task(supervisor.run())
    await reached.wait()
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait([task])
    assert task.cancelled()
    assert opened == 1
