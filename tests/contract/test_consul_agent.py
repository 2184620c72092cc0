"""What the fake agent promises of Consul's API: the same tests as on a real agent."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.consul_agent import FakeConsulAgent
from tests.fakes.consul_process import ConsulAgentProcess, if_built

AGENTS = ["fake", *if_built("real")]


class Api:
    """Bare HTTP to an agent."""

    def __init__(self, address: str, session: aiohttp.ClientSession) -> None:
        self._address = address
        self._session = session

    async def put(self, path: str, body: Any = None, **query: str) -> Any:
        content: dict[str, Any] = {"data": body} if isinstance(body, str) else {"json": body}
        async with self._session.put(
            f"http://{self._address}/v1/{path}", params=query, **content
        ) as answer:
            text = await answer.text()
            assert answer.status == 200, text
            return await answer.json() if text.strip() else None

    async def members(self) -> list[Any]:
        async with self._session.get(f"http://{self._address}/v1/agent/members") as answer:
            assert answer.status == 200
            return await answer.json()

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        async with self._session.get(f"http://{self._address}/v1/{path}", params=query) as answer:
            assert answer.status in {200, 404}, await answer.text()
            found = await answer.json() if answer.status == 200 else None
            return int(answer.headers["X-Consul-Index"]), found


@pytest.fixture(params=AGENTS)
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Api]:
    agent = FakeConsulAgent() if request.param == "fake" else ConsulAgentProcess(tmp_path)
    await agent.start()
    async with aiohttp.ClientSession() as session:
        yield Api(agent.address, session)
    await agent.stop()


async def test_a_key_is_set_only_from_the_state_that_was_seen(api: Api) -> None:
    assert await api.put("kv/key", "one", cas="0") is True
    assert await api.put("kv/key", "two", cas="0") is False
    _, (entry,) = await api.get("kv/key")
    assert base64.b64decode(entry["Value"]) == b"one"
    assert await api.put("kv/key", "two", cas=str(entry["ModifyIndex"])) is True
    _, (after,) = await api.get("kv/key")
    assert after["CreateIndex"] == entry["CreateIndex"] < after["ModifyIndex"]


async def test_a_lock_is_held_by_one_session_until_it_ends(api: Api) -> None:
    # Without delay: by default a lost lock stays closed for 15 s.
    first = (await api.put("session/create", {"LockDelay": "0s"}))["ID"]
    second = (await api.put("session/create", {"LockDelay": "0s"}))["ID"]
    assert await api.put("kv/lock", "first", acquire=first) is True
    assert await api.put("kv/lock", "second", acquire=second) is False
    await api.put(f"session/destroy/{first}")
    async with asyncio.timeout(30):
        while await api.put("kv/lock", "second", acquire=second) is not True:
            await asyncio.sleep(0.1)


async def test_a_query_waits_for_a_change(api: Api) -> None:
    await api.put("kv/folder/a", "1")
    index, _ = await api.get("kv/folder/", recurse="1")
    waiting = asyncio.create_task(
        api.get("kv/folder/", recurse="1", index=str(index), wait="5000ms")
    )
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await api.put("kv/folder/b", "2")
    later, found = await waiting

    assert later > index
    assert [entry["Key"] for entry in found] == ["folder/a", "folder/b"]


async def test_a_query_ends_with_its_wait(api: Api) -> None:
    index, found = await api.get("kv/none", wait="1ms")
    again, still = await api.get("kv/none", index=str(max(1, index)), wait="100ms")

    assert (found, still) == (None, None)
    assert again >= index


async def test_a_ttl_check_passes_while_it_is_told_so(api: Api) -> None:
    check = {"TTL": "500ms", "Status": "critical"}
    await api.put("agent/service/register", {"Name": "timed", "ID": "t", "Port": 1, "Check": check})

    async def until_passing(count: int) -> None:
        async with asyncio.timeout(30):
            while len((await api.get("health/service/timed", passing="1"))[1]) != count:
                await asyncio.sleep(0.05)

    await until_passing(0)
    await api.put("agent/check/pass/service:t")
    await until_passing(1)
    await until_passing(0)


async def test_an_agent_lists_the_members_of_its_gossip(api: Api) -> None:
    [server] = [each for each in await api.members() if each["Tags"]["role"] == "consul"]
    assert server["Status"] == 1
    assert isinstance(server["Addr"], str)
    assert isinstance(server["Port"], int)
