"""What every configuration store guarantees: Consul's keys, and the fake for other tests."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxmesh_shared.config_store import ConfigStore, NoConfigStore, open_config_store
from mlxmesh_shared.config_store.consul import ConsulConfigStore
from mlxmesh_shared.process.service_host import follow_store
from mlxmesh_shared.settings import ConsulSettings, GatewaySettings, LiveSettings, MeshSettings
from tests.fakes.config_store import InMemoryConfigStore
from tests.fakes.consul_agent import FakeConsulAgent

PATIENCE_S = 30


@dataclass
class Case:
    """A store, and how an operator changes its content."""

    store: ConfigStore
    put: Callable[[str, str], Awaitable[None]]
    remove_keys: Callable[[], Awaitable[None]]


@asynccontextmanager
async def in_memory() -> AsyncIterator[Case]:
    store = InMemoryConfigStore()
    yield Case(store, store.put, store.remove_keys)


@asynccontextmanager
async def in_consul() -> AsyncIterator[Case]:
    agent = FakeConsulAgent()
    await agent.start()
    store = ConsulConfigStore(ConsulSettings(address=agent.address, prefix="staging"))

    async def put(key: str, text: str) -> None:
        await agent.put(f"staging/config/{key}", text)

    try:
        # Another mesh's key, which is no part of this store's content.
        await agent.put("mlxmesh/config/mesh/log_level", "debug")
        yield Case(store, put, agent.remove_keys)
    finally:
        await store.close()
        await agent.stop()


@pytest.fixture(params=[in_memory, in_consul])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    async with request.param() as made:
        yield made


async def next_of(watching: AsyncGenerator[Mapping[str, str], None]) -> Mapping[str, str]:
    async with asyncio.timeout(PATIENCE_S):
        return await anext(watching)


async def test_it_reads_the_current_content(case: Case) -> None:
    assert await case.store.read() == {}
    await case.put("gateway/max_deadline_s", "7")
    await case.put("mesh/log_level", "error")

    content = {"gateway/max_deadline_s": "7", "mesh/log_level": "error"}
    assert await case.store.read() == content


async def test_a_watch_yields_the_content_now_and_after_each_change(case: Case) -> None:
    async with aclosing(case.store.watch()) as watching:
        assert await next_of(watching) == {}
        await case.put("gateway/max_deadline_s", "7")
        assert await next_of(watching) == {"gateway/max_deadline_s": "7"}
        await case.put("gateway/max_deadline_s", "8")
        assert await next_of(watching) == {"gateway/max_deadline_s": "8"}
        await case.remove_keys()
        assert await next_of(watching) == {}


async def test_two_watches_do_not_disturb_each_other(case: Case) -> None:
    await case.put("mesh/log_level", "error")
    async with aclosing(case.store.watch()) as one, aclosing(case.store.watch()) as other:
        assert await next_of(one) == await next_of(other) == {"mesh/log_level": "error"}
        await case.put("mesh/log_level", "debug")
        assert await next_of(one) == await next_of(other) == {"mesh/log_level": "debug"}


async def test_settings_follow_any_store(case: Case) -> None:
    live = LiveSettings(lambda stored: GatewaySettings.model_validate(dict(stored)))
    changed = asyncio.Event()
    live.watch(lambda _: changed.set())
    task = asyncio.create_task(follow_store(case.store, live, "gateway"))
    await case.put("gateway/max_deadline_s", "7")
    async with asyncio.timeout(PATIENCE_S):
        await changed.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert live.current.max_deadline_s == 7


async def test_without_a_store_the_content_is_empty_and_stays_so() -> None:
    store = NoConfigStore()
    assert await store.read() == {}
    async with aclosing(store.watch()) as watching:
        assert await next_of(watching) == {}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(watching)


async def test_the_setting_chooses_the_adapter(tmp_path: Path) -> None:
    async with open_config_store(MeshSettings(data_dir=tmp_path)) as store:
        assert isinstance(store, NoConfigStore)
    async with open_config_store(MeshSettings(data_dir=tmp_path, config_store="consul")) as store:
        assert isinstance(store, ConsulConfigStore)
