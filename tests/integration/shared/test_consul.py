"""What goes wrong between a process and its Consul agent, and what must not come of it."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from mlxmesh_shared.config_store.consul import ConsulConfigStore
from mlxmesh_shared.consul.agent import ConsulAgent, ConsulService
from mlxmesh_shared.consul.blocking import BlockingQuery
from mlxmesh_shared.errors import InvalidArgument, RegistryUnavailable
from mlxmesh_shared.process.service_host import follow_store, following_settings
from mlxmesh_shared.registry.consul import ConsulRegistry
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.settings import (
    ConsulSettings,
    GatewaySettings,
    LiveSettings,
    load_settings,
    section_values,
)
from tests.fakes.consul_agent import FakeConsulAgent, Policy
from tests.fakes.health import healthy

PATIENCE_S = 30


class Stand:
    """An agent, a registry on it, and instances that serve."""

    def __init__(self, agent: FakeConsulAgent, stack: AsyncExitStack) -> None:
        self.agent = agent
        self._stack = stack

    def settings(self, **changes: object) -> ConsulSettings:
        given = {"address": self.agent.address, "check_interval_s": 0.3}
        return ConsulSettings.model_validate(given | changes)

    def registry(self, **changes: object) -> ConsulRegistry:
        registry = ConsulRegistry(self.settings(**changes))
        self._stack.push_async_callback(registry.close)
        return registry

    async def instance(self, name: str = "a", **metadata: str) -> Instance:
        """One that says SERVING until the test ends."""
        address = await self._stack.enter_async_context(healthy("127.0.0.1:0"))
        return Instance("engine", name, address, 1, metadata)


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    agent = FakeConsulAgent()
    await agent.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(agent.stop)
        yield Stand(agent, stack)


async def ids(watching: AsyncGenerator[tuple[Instance, ...], None]) -> list[str]:
    async with asyncio.timeout(PATIENCE_S):
        return [found.instance_id for found in await anext(watching)]


async def until_registered(agent: FakeConsulAgent, *names: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while {service["ID"] for service in agent.services.values()} != set(names):
            await asyncio.sleep(0.02)


async def test_an_agent_that_restarted_is_told_again(stand: Stand) -> None:
    registry = stand.registry()
    await registry.register(await stand.instance())

    await stand.agent.restart()
    await until_registered(stand.agent, "mlxmesh-engine:a")


async def test_a_service_that_the_agent_lost_is_registered_again(stand: Stand) -> None:
    registry = stand.registry()
    await registry.register(await stand.instance("a"))
    await registry.register(await stand.instance("b"))

    await stand.agent.lose("mlxmesh-engine:a")
    await until_registered(stand.agent, "mlxmesh-engine:a", "mlxmesh-engine:b")


async def test_what_was_withdrawn_is_not_registered_again(stand: Stand) -> None:
    registry = stand.registry()
    instance = await stand.instance()
    await registry.register(instance)
    await registry.deregister(instance)

    await stand.agent.restart()
    await asyncio.sleep(1)

    assert stand.agent.services == {}


async def test_an_agent_that_is_away_at_the_start_is_told_when_it_comes(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    await stand.agent.stop()
    registry = stand.registry()
    await registry.register(await stand.instance())
    assert "cannot be reached" in caplog.text

    with pytest.raises(RegistryUnavailable, match=stand.agent.address):
        await registry.resolve("engine")
    async with aclosing(registry.watch("engine")) as watching:
        first = asyncio.create_task(ids(watching))
        await stand.agent.start()
        if await first == []:
            assert await ids(watching) == ["a"]


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 429}, {"status": 403}, {"garbage": True}, {"away": True}]
)
async def test_what_was_known_serves_while_consul_is_ill(
    stand: Stand, fault: dict[str, object]
) -> None:
    registry = stand.registry()
    instance = await stand.instance()
    await registry.register(instance)
    async with aclosing(registry.watch("engine")) as watching:
        assert await ids(watching) == ["a"]
        if fault.pop("away", False):
            await stand.agent.stop()
        for name, value in fault.items():
            setattr(stand.agent.faults, name, value)

        assert await registry.resolve("engine") == (instance,)
        # The watch tells nothing, and above all does not end.
        following = asyncio.create_task(ids(watching))
        await asyncio.sleep(1)
        assert not following.done()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_the_agents_return_is_seen_by_watchers(stand: Stand) -> None:
    registry = stand.registry()
    await registry.register(await stand.instance("a"))
    async with aclosing(registry.watch("engine")) as watching:
        assert await ids(watching) == ["a"]
        await stand.agent.stop()
        await asyncio.sleep(0.5)
        await stand.agent.start()
        await stand.registry().register(await stand.instance("b"))
        assert await ids(watching) == ["a", "b"]


async def test_an_empty_answer_takes_nobody_away_that_serves(stand: Stand) -> None:
    registry = stand.registry()
    await registry.register(await stand.instance("a"))
    async with aclosing(registry.watch("engine")) as watching:
        assert await ids(watching) == ["a"]
        stand.agent.faults.empty_health = True
        await stand.agent.put("wake", "every query")
        assert [one.instance_id for one in await registry.resolve("engine")] == ["a"]

        stand.agent.faults.empty_health = False
        await stand.registry().register(await stand.instance("b"))
        assert await ids(watching) == ["a", "b"]


async def test_an_empty_answer_is_true_of_those_that_are_gone(stand: Stand) -> None:
    registry = stand.registry()
    async with healthy("127.0.0.1:0") as address:
        await registry.register(Instance("engine", "a", address, 1))
        watching = registry.watch("engine")
        assert await ids(watching) == ["a"]
    assert await ids(watching) == []
    await watching.aclose()


async def test_a_failed_check_takes_nobody_away_that_serves(stand: Stand) -> None:
    registry = stand.registry()
    await registry.register(await stand.instance("b"))
    async with aclosing(registry.watch("engine")) as watching:
        assert await ids(watching) == ["b"]
        async with healthy("127.0.0.1:0") as address:
            await registry.register(Instance("engine", "a", address, 1))
            assert await ids(watching) == ["a", "b"]
            stand.agent.faults.unreachable.add("mlxmesh-engine:a")
            async with asyncio.timeout(PATIENCE_S):
                while [one.passing for one in await checked(stand)] != [False, True]:
                    await asyncio.sleep(0.02)
            assert [one.instance_id for one in await registry.resolve("engine")] == ["a", "b"]

            # Whoever did not know it believes the check.
            stranger = stand.registry()
            assert [one.instance_id for one in await stranger.resolve("engine")] == ["b"]
        assert await ids(watching) == ["b"]


async def test_who_is_reached_again_need_not_wait_for_its_check(stand: Stand) -> None:
    """As after a broken link, which Consul's gossip takes ten seconds and more to find healed."""
    registry = stand.registry()
    await registry.register(await stand.instance("b"))
    async with aclosing(registry.watch("engine")) as watching:
        assert await ids(watching) == ["b"]
        async with healthy("127.0.0.1:0") as address:
            await registry.register(Instance("engine", "a", address, 1))
            assert await ids(watching) == ["a", "b"]
            stand.agent.faults.unreachable.add("mlxmesh-engine:a")
        assert await ids(watching) == ["b"]

        async with healthy(address):
            assert await ids(watching) == ["a", "b"]
        assert await ids(watching) == ["b"]

        await registry.deregister(Instance("engine", "a", address, 1))
        async with healthy(address):
            await registry.register(await stand.instance("c"))
            assert await ids(watching) == ["b", "c"]


async def checked(stand: Stand) -> list[ConsulService]:
    """As the agent tells of them."""
    agent = ConsulAgent(stand.settings())
    try:
        _, found = await agent.services("mlxmesh-engine", 0, 0)
    finally:
        await agent.close()
    return sorted(found)


async def test_an_instance_that_stops_to_answer_is_taken_out_by_its_check(stand: Stand) -> None:
    registry = stand.registry()
    await registry.register(await stand.instance("a"))
    async with aclosing(registry.watch("engine")) as watching:
        async with healthy("127.0.0.1:0") as address:
            await registry.register(Instance("engine", "b", address, 1))
            assert await ids(watching) == ["a", "b"]
        assert await ids(watching) == ["a"]


async def test_changes_are_seen_after_the_index_went_backwards(stand: Stand) -> None:
    registry = stand.registry()
    await registry.register(await stand.instance("a"))
    for number in range(20):
        await stand.agent.put("key", str(number))
    async with aclosing(registry.watch("engine")) as watching:
        assert await ids(watching) == ["a"]
        waiting = asyncio.create_task(ids(watching))
        await asyncio.sleep(0.2)
        await stand.agent.rewind()
        await registry.register(await stand.instance("b"))
        assert await waiting == ["a", "b"]


@pytest.mark.parametrize(
    ("answered", "asked_with"),
    [([5, 7, 7], [0, 5, 7]), ([5, 2, 3], [0, 5, 0]), ([0, 0, 0], [0, 1, 1])],
)
async def test_the_index_moves_on_begins_again_and_is_at_least_one(
    answered: list[int], asked_with: list[int]
) -> None:
    query, asked, answers = BlockingQuery[str](), list[int](), iter(answered)

    async def ask(index: int, _: float) -> tuple[int, str]:
        asked.append(index)
        return next(answers), "answer"

    for _ in answered:
        assert await query.next(ask) == "answer"

    assert asked == asked_with


async def test_after_a_failure_it_asks_without_waiting() -> None:
    query, asked = BlockingQuery[str](), list[int]()

    async def ask(index: int, _: float) -> tuple[int, str]:
        asked.append(index)
        if len(asked) == 2:
            raise RegistryUnavailable("away")
        return 9 - len(asked), "answer"

    await query.next(ask)
    assert not query.went_back
    await query.next(ask)

    assert asked == [0, 8, 0]
    assert query.went_back


@pytest.mark.parametrize(("distrust_s", "then"), [(0.0, 8), (60.0, 0)])
async def test_for_a_time_after_a_failure_it_does_not_wait(distrust_s: float, then: int) -> None:
    """The agent may wait on a connection to a server that is dead since the failure."""
    query, asked = BlockingQuery[str](distrust_s=distrust_s), list[int]()

    async def ask(index: int, _: float) -> tuple[int, str]:
        asked.append(index)
        if len(asked) == 1:
            raise RegistryUnavailable("away")
        return 8, "answer"

    await query.next(ask)
    await query.next(ask)

    assert asked == [0, 0, then]


async def test_a_flood_of_changes_is_asked_for_at_a_bounded_rate(stand: Stand) -> None:
    registry = stand.registry()
    async with aclosing(registry.watch("engine")) as watching:
        assert await ids(watching) == []
        waiting = asyncio.create_task(ids(watching))
        started_s = time.monotonic()
        for _ in range(200):
            await stand.agent.put("key", "value")
            await asyncio.sleep(0.002)
        took_s = time.monotonic() - started_s
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asked = [path for _, path in stand.agent.requests if "/health/service/" in path]
    assert 2 <= len(asked) <= 3 + took_s / 0.05


# Access control.


async def test_each_token_may_do_what_its_policy_says(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # py-consul would prefer this one.
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "from-the-environment")
    everyone = ("mlxmesh-",)
    agent = FakeConsulAgent(
        {
            "engines-token": Policy(write_services=("mlxmesh-engine",), read_services=everyone),
            "readers-token": Policy(read_services=everyone),
            "from-the-environment": Policy(write_services=everyone, read_services=everyone),
        }
    )
    await agent.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(agent.stop)
        stand = Stand(agent, stack)
        instance = await stand.instance()

        reader = stand.registry(token="readers-token")
        await reader.register(instance)
        assert agent.services == {}
        assert "ACL (403)" in caplog.text
        assert "deploy/consul/policies" in caplog.text

        await stand.registry(token="engines-token").register(instance)
        assert await reader.resolve("engine") == (instance,)
        assert await stand.registry().resolve("engine") == ()
    assert "readers-token" not in caplog.text


def test_a_token_is_shown_nowhere() -> None:
    settings = ConsulSettings.model_validate({"token": "a-secret"})

    assert "a-secret" not in f"{settings} {settings!r} {settings.token}"


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"a key": "x"}, "metadata.a key"),
        ({"k" * 129: "x"}, "metadata."),
        ({"key": "x" * 513}, "metadata.key"),
        ({f"k{n}": "x" for n in range(64)}, "metadata"),
    ],
)
async def test_metadata_that_consul_cannot_hold(
    stand: Stand, metadata: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await stand.registry().register(await stand.instance(**metadata))

    assert caught.value.field.startswith(field)


async def test_two_meshes_share_a_consul_by_their_prefixes(stand: Stand) -> None:
    one, two = stand.registry(), stand.registry(prefix="staging")
    instance = await stand.instance()
    await one.register(instance)

    assert await one.resolve("engine") == (instance,)
    assert await two.resolve("engine") == ()


async def test_a_silent_agent_is_given_up_on(stand: Stand) -> None:
    agent = ConsulAgent(stand.settings(), request_timeout_s=0.2)
    registry = ConsulRegistry(stand.settings(), agent)
    stand.agent.faults.silent = True

    with pytest.raises(RegistryUnavailable, match="did not answer within"):
        await registry.resolve("engine")
    await registry.close()


async def test_certificates_that_cannot_be_read_are_named(stand: Stand, tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable, match=r"consul\.ca"):
        stand.registry(ca=tmp_path / "none.pem")
    with pytest.raises(RegistryUnavailable, match=r"consul\.cert"):
        stand.registry(cert=tmp_path / "some.pem")


# Settings in Consul's keys.


def live_gateway(stand: Stand, *flags: str) -> LiveSettings[GatewaySettings]:
    flags = flags or ("--registry", "consul", "--consul-address", stand.agent.address)
    return LiveSettings(lambda stored: load_settings(GatewaySettings, flags, env={}, stored=stored))


async def until_max_deadline(live: LiveSettings[GatewaySettings], wanted_s: float) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while live.current.max_deadline_s != wanted_s:
            await asyncio.sleep(0.01)


async def test_settings_follow_the_keys(stand: Stand) -> None:
    await stand.agent.put("mlxmesh/config/gateway/max_deadline_s", "7")
    live = live_gateway(stand)
    async with following_settings(live, "gateway"):
        await until_max_deadline(live, 7)
        await stand.agent.put("mlxmesh/config/gateway/max_deadline_s", "8")
        await until_max_deadline(live, 8)
        await stand.agent.stop()
        await asyncio.sleep(0.3)
        assert live.current.max_deadline_s == 8
        await stand.agent.start()
        await stand.agent.put("mlxmesh/config/gateway/max_deadline_s", "9")
        await until_max_deadline(live, 9)
        await stand.agent.remove_keys()
        await until_max_deadline(live, 3600)


async def test_an_agent_that_forgot_its_keys_changes_nothing(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        await stand.agent.put("mlxmesh/config/gateway/max_deadline_s", str(number + 1))
    live = live_gateway(stand)
    async with following_settings(live, "gateway"):
        await until_max_deadline(live, 20)
        await asyncio.sleep(0.2)  # the next query waits
        await stand.agent.restart()
        async with asyncio.timeout(PATIENCE_S):
            while "Consul lost its keys" not in caplog.text:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)  # it is asked again, and is as empty
        assert live.current.max_deadline_s == 20
        await stand.agent.put("mlxmesh/config/mesh/log_level", "error")
        await until_max_deadline(live, 3600)


async def test_the_log_level_follows_at_once(stand: Stand) -> None:
    root, live = logging.getLogger(), live_gateway(stand)
    async with following_settings(live, "gateway"):
        assert root.level == logging.INFO
        await stand.agent.put("mlxmesh/config/mesh/log_level", "error")
        async with asyncio.timeout(PATIENCE_S):
            while root.level != logging.ERROR:
                await asyncio.sleep(0.01)


async def test_the_keys_of_every_section_can_be_read_once(stand: Stand) -> None:
    await stand.agent.put("mlxmesh/config/mesh/log_level", "error")
    await stand.agent.put("mlxmesh/config/model/log_level", "debug")

    store = ConsulConfigStore(stand.settings())
    stored = await store.read()
    await store.close()

    assert section_values(stored, "gateway") == {"log_level": "error"}
    assert section_values(stored, "model") == {"log_level": "debug"}


async def test_following_ends_with_its_task(stand: Stand) -> None:
    store = ConsulConfigStore(stand.settings())
    task = asyncio.create_task(follow_store(store, live_gateway(stand), "gateway"))
    await asyncio.sleep(0.1)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await store.close()


async def test_the_choice_of_registry_is_not_the_choice_of_the_configuration_store(
    stand: Stand,
) -> None:
    await stand.agent.put("mlxmesh/config/gateway/max_deadline_s", "7")
    address = ("--consul-address", stand.agent.address)
    chosen = live_gateway(stand, "--config-store", "consul", *address)
    assert chosen.current.registry == "directory"
    async with following_settings(chosen, "gateway"):
        await until_max_deadline(chosen, 7)

    without = live_gateway(stand, "--registry", "consul", "--config-store", "none", *address)
    async with following_settings(without, "gateway"):
        await asyncio.sleep(0.3)
        assert without.current.max_deadline_s == 3600
