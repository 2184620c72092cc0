"""What every registry adapter must do: one suite, each adapter."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.registry import local_instance, open_registry
from mlxmesh_shared.registry.consul import ConsulRegistry
from mlxmesh_shared.registry.directory import DirectoryRegistry
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.settings import ConsulSettings, MeshSettings
from tests.fakes.consul_agent import FakeConsulAgent
from tests.fakes.consul_process import ConsulAgentProcess, if_built
from tests.fakes.health import healthy
from tests.fakes.ports import free_port
from tests.fakes.registry import InMemoryRegistry

LEASE_S = 1.5
POLL_S = 0.2
# Something serves there where an adapter has it checked.
ADDRESS = f"127.0.0.1:{free_port()}"
ADAPTERS = ["directory", "memory", "consul and a fake agent", *if_built("consul")]


def instance(instance_id: str = "engine-1", service: str = "engine", **metadata: str) -> Instance:
    return Instance(service, instance_id, ADDRESS, os.getpid(), metadata)


@pytest.fixture(params=ADAPTERS)
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    async with contextlib.AsyncExitStack() as stack:
        registry = await open_adapter(request.param, tmp_path, stack)
        stack.push_async_callback(registry.close)
        yield registry


async def open_adapter(
    adapter: str, path: Path, stack: contextlib.AsyncExitStack
) -> DirectoryRegistry | InMemoryRegistry | ConsulRegistry:
    if adapter == "directory":
        return DirectoryRegistry(path / "registry", lease_s=LEASE_S)
    if adapter == "memory":
        return InMemoryRegistry()
    agent = FakeConsulAgent() if "fake" in adapter else ConsulAgentProcess(path)
    await agent.start()
    stack.push_async_callback(agent.stop)
    await stack.enter_async_context(healthy(ADDRESS))
    return ConsulRegistry(ConsulSettings(address=agent.address, check_interval_s=LEASE_S / 3))


class WallClock:
    """The wall clock, set ahead or back."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


async def next_set(watching: AsyncGenerator[tuple[Instance, ...], None]) -> list[str]:
    async with asyncio.timeout(30):
        return [found.instance_id for found in await anext(watching)]


async def test_nobody_is_there_at_first(registry: Registry) -> None:
    assert await registry.resolve("engine") == ()


async def test_registered_is_found_whole(registry: Registry) -> None:
    await registry.register(instance(model="pocket", state="ready"))

    assert await registry.resolve("engine") == (instance(model="pocket", state="ready"),)


async def test_an_ipv6_address_is_found_as_it_was_registered(registry: Registry) -> None:
    six = replace(instance(), address="[::1]:5")
    await registry.register(six)
    assert await registry.resolve("engine") == (six,)


async def test_services_are_kept_apart(registry: Registry) -> None:
    await registry.register(instance("a", "engine"))
    await registry.register(instance("a", "model"))

    assert await registry.resolve("model") == (instance("a", "model"),)


async def test_registering_again_changes(registry: Registry) -> None:
    await registry.register(instance(state="starting"))
    await registry.register(instance(state="ready"))

    assert await registry.resolve("engine") == (instance(state="ready"),)


async def test_deregistered_is_gone_at_once(registry: Registry) -> None:
    await registry.register(instance("a"))
    await registry.register(instance("b"))
    await registry.deregister(instance("a"))

    assert await registry.resolve("engine") == (instance("b"),)


async def test_deregistering_a_stranger_is_nothing(registry: Registry) -> None:
    await registry.deregister(instance())

    assert await registry.resolve("engine") == ()


async def test_many_come_sorted(registry: Registry) -> None:
    ids = [f"engine-{number:03d}" for number in range(100)]
    await asyncio.gather(*(registry.register(instance(i)) for i in reversed(ids)))

    assert [found.instance_id for found in await registry.resolve("engine")] == ids


async def test_watch_tells_the_set_and_then_each_change(registry: Registry) -> None:
    await registry.register(instance("a"))
    async with aclosing(registry.watch("engine")) as watching:
        assert await next_set(watching) == ["a"]
        await registry.register(instance("b"))
        assert await next_set(watching) == ["a", "b"]
        await registry.register(instance("b", state="ready"))
        assert await next_set(watching) == ["a", "b"]
        await registry.deregister(instance("a"))
        assert await next_set(watching) == ["b"]
        await registry.deregister(instance("b"))
        assert await next_set(watching) == []


async def test_watch_begins_with_nobody(registry: Registry) -> None:
    async with aclosing(registry.watch("engine")) as watching:
        assert await next_set(watching) == []
        await registry.register(instance("a"))
        assert await next_set(watching) == ["a"]


async def test_watchers_do_not_disturb_each_other(registry: Registry) -> None:
    watches = [registry.watch("engine") for _ in range(5)]
    assert [await next_set(w) for w in watches] == [[]] * 5

    await registry.register(instance("a"))

    assert [await next_set(w) for w in watches] == [["a"]] * 5
    for watching in watches:
        await watching.aclose()


async def test_a_lease_is_kept(registry: Registry) -> None:
    await registry.register(instance())
    await asyncio.sleep(1.5 * LEASE_S)

    assert await registry.resolve("engine") == (instance(),)


@pytest.mark.parametrize("name", ["../escape", "", "a/b", ".hidden", "a\x00", "a" * 300])
async def test_illegal_names_are_refused(name: str, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for adapter in ("directory", "consul and a fake agent"):
            registry = await open_adapter(adapter, tmp_path, stack)
            stack.push_async_callback(registry.close)
            with pytest.raises(InvalidArgument):
                await registry.register(instance(name))
            with pytest.raises(InvalidArgument):
                await registry.resolve(name)


# What follows is how one machine's directory can go wrong.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
async def directory(path: Path) -> AsyncIterator[DirectoryRegistry]:
    registry = DirectoryRegistry(path, lease_s=LEASE_S, poll_s=POLL_S)
    yield registry
    await registry.close()


async def dead_pid() -> int:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
    await process.wait()
    return process.pid


async def test_a_directory_that_cannot_be_read_is_not_an_empty_one(
    directory: DirectoryRegistry, path: Path
) -> None:
    await directory.register(instance())
    async with aclosing(directory.watch("engine")) as watching:
        assert await next_set(watching) == ["engine-1"]
        change = asyncio.ensure_future(next_set(watching))
        aside = path.with_name("aside")
        path.rename(aside)
        path.write_text("not a directory")
        await asyncio.sleep(3 * POLL_S)
        assert not change.done()
        path.unlink()
        aside.rename(path)
        await directory.register(instance("engine-2"))
        assert await change == ["engine-1", "engine-2"]


async def test_two_processes_see_each_other(directory: DirectoryRegistry, path: Path) -> None:
    program = (
        "import asyncio, os, sys, pathlib\n"
        "from mlxmesh_shared.registry.directory import DirectoryRegistry\n"
        "from mlxmesh_shared.registry.port import Instance\n"
        "registry = DirectoryRegistry(pathlib.Path(sys.argv[1]))\n"
        "mine = Instance('engine', 'child', '127.0.0.1:1', os.getpid())\n"
        "asyncio.run(registry.register(mine))\n"
        "sys.stdin.read()\n"
    )
    async with aclosing(directory.watch("engine")) as watching:
        assert await next_set(watching) == []
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(path), stdin=asyncio.subprocess.PIPE
        )
        try:
            assert await next_set(watching) == ["child"]
        finally:
            child.kill()
            await child.wait()
        # Nobody withdrew it, and its lease is ten seconds: the death alone must do.
        assert await next_set(watching) == []


async def test_a_dead_process_is_gone_at_once(directory: DirectoryRegistry) -> None:
    dead = Instance("engine", "dead", "127.0.0.1:1", await dead_pid())
    await directory.register(dead)

    assert await directory.resolve("engine") == ()


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="elsewhere an unreaped process counts until its lease ends, as the adapter says",
)
async def test_a_dead_process_that_nobody_reaped_is_gone(directory: DirectoryRegistry) -> None:
    # asyncio would reap it.
    child = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", "pass"], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        await asyncio.to_thread(child.stdout.read)  # its end, but nobody waits for it
        await directory.register(Instance("engine", "zombie", "127.0.0.1:1", child.pid))
        async with asyncio.timeout(30):
            while await directory.resolve("engine"):
                await asyncio.sleep(0.01)
    finally:
        child.communicate()


@pytest.mark.parametrize(("host", "found"), [("", True), ("elsewhere", False)])
async def test_a_living_process_here_may_be_late(path: Path, host: str, found: bool) -> None:
    owner = DirectoryRegistry(path)
    await owner.register(instance())
    await owner.close()
    record = path / "engine" / "engine-1.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | ({"host": host} if host else {})))
    os.utime(record, (time.time() - 11, time.time() - 11))

    assert bool(await DirectoryRegistry(path).resolve("engine")) is found


async def test_a_change_just_after_the_first_look_is_seen_at_once(path: Path) -> None:
    directory = DirectoryRegistry(path, poll_s=3600)
    async with aclosing(directory.watch("engine")) as watching:
        assert await next_set(watching) == []
        await directory.register(instance())
        assert await next_set(watching) == ["engine-1"]
    await directory.close()


async def test_a_lease_that_nobody_keeps_ends(path: Path) -> None:
    owner = DirectoryRegistry(path, lease_s=2)
    await owner.register(instance())
    reader = DirectoryRegistry(path, lease_s=2, poll_s=POLL_S)
    async with aclosing(reader.watch("engine")) as watching:
        assert await next_set(watching) == ["engine-1"]
        await owner.close()
        assert await reader.resolve("engine") == (instance(),)
        assert await next_set(watching) == []


async def test_a_record_from_the_future_is_not_believed(
    directory: DirectoryRegistry, path: Path
) -> None:
    await directory.register(instance())
    future = time.time() + 3600
    os.utime(path / "engine" / "engine-1.json", (future, future))

    assert await DirectoryRegistry(path).resolve("engine") == ()


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
async def test_no_lease_ends_when_the_wall_clock_is_set(path: Path, jump_s: float) -> None:
    wall_clock = WallClock()
    owner = DirectoryRegistry(path, lease_s=LEASE_S)
    reader = DirectoryRegistry(path, lease_s=LEASE_S, poll_s=POLL_S, wall_clock=wall_clock)
    await owner.register(instance())
    async with aclosing(reader.watch("engine")) as watching:
        assert await next_set(watching) == ["engine-1"]
        wall_clock.ahead_s = jump_s
        change = asyncio.ensure_future(next_set(watching))
        await asyncio.sleep(2 * LEASE_S)
        assert not change.done()
        assert await reader.resolve("engine") == (instance(),)
        await owner.close()
        assert await change == []


async def test_setting_the_clock_removes_no_record_of_the_living(path: Path) -> None:
    wall_clock = WallClock()
    owner = DirectoryRegistry(path)
    await owner.register(instance("old"))
    wall_clock.ahead_s = 3600.0
    newcomer = DirectoryRegistry(path, wall_clock=wall_clock)
    await newcomer.register(instance("new"))
    assert (path / "engine" / "old.json").exists()
    await owner.close()
    await newcomer.close()


async def test_a_lease_that_ended_between_two_looks_has_ended(path: Path) -> None:
    """A reader who looks seldom must not take an old renewal for one of just now."""
    reader = DirectoryRegistry(path, lease_s=LEASE_S)
    owner = DirectoryRegistry(path, lease_s=LEASE_S)
    await owner.register(instance())
    assert await reader.resolve("engine") == (instance(),)
    await asyncio.sleep(LEASE_S)
    await owner.close()
    await asyncio.sleep(3.2 * LEASE_S)
    assert await reader.resolve("engine") == ()


@pytest.mark.parametrize(
    "content",
    ["", '{"service": "engi', "[]", "{}", "null", '"x"', "\x00", json.dumps({"host": 1})],
)
async def test_a_torn_record_is_passed_over(
    directory: DirectoryRegistry, path: Path, content: str
) -> None:
    await directory.register(instance("good"))
    (path / "engine" / "torn.json").write_text(content)
    (path / "engine" / "bytes.json").write_bytes(b"\xff\xfe")
    (path / "engine" / ".x.1.draft").write_text("{")

    assert await directory.resolve("engine") == (instance("good"),)


async def test_a_record_that_was_removed_comes_back(
    directory: DirectoryRegistry, path: Path
) -> None:
    await directory.register(instance())
    (path / "engine" / "engine-1.json").unlink()
    async with aclosing(directory.watch("engine")) as watching:
        while await next_set(watching) != ["engine-1"]:
            pass


async def test_a_deregistered_record_does_not_come_back(directory: DirectoryRegistry) -> None:
    await directory.register(instance())
    await directory.deregister(instance())
    await asyncio.sleep(LEASE_S)

    assert await directory.resolve("engine") == ()


async def test_old_remains_are_swept(directory: DirectoryRegistry, path: Path) -> None:
    await directory.register(Instance("engine", "old", "127.0.0.1:1", await dead_pid()))
    await directory.close()
    past = time.time() - 3600
    os.utime(path / "engine" / "old.json", (past, past))

    await directory.register(instance("new"))

    assert [record.name for record in (path / "engine").iterdir()] == ["new.json"]


async def test_close_leaves_records(directory: DirectoryRegistry, path: Path) -> None:
    await directory.register(instance())
    await directory.close()

    assert await DirectoryRegistry(path).resolve("engine") == (instance(),)


async def test_the_settings_choose_the_adapter(tmp_path: Path) -> None:
    registry = open_registry(MeshSettings(data_dir=tmp_path))
    await registry.register(instance())
    await registry.close()

    assert (tmp_path / "registry" / "engine" / "engine-1.json").is_file()


async def test_the_settings_choose_consul(tmp_path: Path) -> None:
    agent = FakeConsulAgent()
    await agent.start()
    settings = MeshSettings(
        data_dir=tmp_path, registry="consul", consul=ConsulSettings(address=agent.address)
    )
    registry = open_registry(settings)
    await registry.register(instance())

    assert list(agent.services) == ["mlxmesh-engine:engine-1"]
    await registry.close()
    await agent.stop()


def test_every_instance_tells_where_it_is_and_what_it_speaks() -> None:
    settings = MeshSettings(zone="rack-7", advertise_host="10.0.0.7")

    found = local_instance(settings, "engine", "engine-1", "0.0.0.0:5", pid=7, model="pocket")

    assert (found.address, found.pid) == ("10.0.0.7:5", 7)
    host = socket.gethostname()
    wanted = {"zone": "rack-7", "contract": "v1", "host": host, "model": "pocket"}
    assert found.metadata == wanted
    advertised = MeshSettings(advertise_host="fd00::7")
    assert local_instance(advertised, "model", "m", "[::]:5").address == "[fd00::7]:5"
    assert local_instance(MeshSettings(), "model", "m", "[::1]:5").address == "[::1]:5"


@pytest.mark.parametrize(
    ("listen", "address"), [("0.0.0.0:5", "127.0.0.1:5"), ("[::]:5", "[::1]:5")]
)
def test_one_host_reaches_a_listener_on_all_addresses_by_loopback(listen: str, address: str):
    """Clients send keys without TLS to loopback addresses only."""
    assert local_instance(MeshSettings(), "gateway", "gateway-1", listen).address == address


@pytest.mark.parametrize("host", ["10.0.0.7:5", "[fd00::7", "mac/5", "a" * 254])
def test_a_host_to_advertise_is_a_name_or_an_address(host: str) -> None:
    with pytest.raises(ValueError, match="advertise_host"):
        MeshSettings(advertise_host=host)


@pytest.mark.parametrize("host", ["fd00::7", "[fd00::7]"])
def test_an_ipv6_host_is_told_in_brackets(host: str) -> None:
    settings = MeshSettings(advertise_host=host)

    assert local_instance(settings, "engine", "engine-1", "[::]:5").address == "[fd00::7]:5"
