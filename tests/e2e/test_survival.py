"""Processes are killed or frozen under streams: every stream equals the undisturbed one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest

from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh, until_used

STREAMS = 8
Answer = tuple[str, list[int]]


def requests() -> list[dict[str, Any]]:
    """Greedy and seeded, with penalties, stop texts, and characters of several tokens."""
    long: dict[str, Any] = {"max_tokens": 400, "ignore_eos": True}
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 0.8, "seed": 1},
        {"temperature": 1.0, "seed": 2, "repetition_penalty": 1.2},
        {"temperature": 1.2, "seed": 3, "presence_penalty": 0.5, "frequency_penalty": 0.3},
        {"temperature": 5.0, "seed": 4},
        {"temperature": 5.0, "seed": 5, "stop": ["\u00e4\u00e4\u00e4"]},
        {"temperature": 1.0, "seed": 6, "stop": ["no such text"]},
        {"repetition_penalty": 1.1},
    ]
    return [
        {"messages": [("user", f"Tell me story {index}.")], **long, **setting}
        for index, setting in enumerate(settings)
    ]


class Streams:
    """All requests at once, on one client."""

    def __init__(self, client: MeshClient, **options: Any) -> None:
        self.resumptions = 0
        self.engines: list[str] = []
        """The engine of each stream that has begun."""
        self._client = client
        self._options = options
        self._under_way = [asyncio.Event() for _ in range(STREAMS)]

    async def undisturbed(self) -> list[Answer]:
        return await asyncio.gather(*(self._read(*each) for each in enumerate(requests())))

    async def disturbed(self, disturb: Callable[[], None]) -> list[Answer]:
        """The answers, when something happens once each has given a few tokens."""
        answers = asyncio.gather(*(self._read(*each) for each in enumerate(requests())))
        await asyncio.gather(*(event.wait() for event in self._under_way))
        disturb()
        return await answers

    async def _read(self, index: int, request: dict[str, Any]) -> Answer:
        text, token_ids, sequence = "", [], 0
        async for event in self._client.generate("pocket", **request, **self._options):
            sequence += 1
            assert event.sequence == sequence
            if event.started is not None:
                self.engines.append(event.started.engine_id)
            text += event.text
            token_ids += event.token_ids
            if len(token_ids) > 5:
                self._under_way[index].set()
            if event.finished is not None:
                assert event.finished.usage.completion_tokens == len(token_ids)
                self.resumptions += event.finished.timings.resumptions
        return text, token_ids


@pytest.fixture(scope="module")
def expected(mesh: RunningMesh) -> list[Answer]:
    async def answers() -> list[Answer]:
        async with MeshClient(mesh.address) as client:
            return await Streams(client).undisturbed()

    return asyncio.run(answers())


@contextmanager
def process(mesh: RunningMesh, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One more process of the mesh, started by hand."""
    command = [sys.executable, "-m", *arguments, "--data-dir", str(mesh.data_dir)]
    started = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def instances(mesh: RunningMesh, service: str) -> list[dict[str, Any]]:
    return [row for row in mesh.status()["instances"] if row["service"] == service]


async def until_serving(mesh: RunningMesh, service: str, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(120):
        while len(rows := instances(mesh, service)) != count:
            await asyncio.sleep(0.2)
    return rows


def send(pid: int, number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(pid, number)


async def test_an_engine_is_killed_and_started_again(
    mesh: RunningMesh, expected: list[Answer]
) -> None:
    async with MeshClient(mesh.address, attempts=1) as client:
        streams = Streams(client)
        pid = mesh.pid("engine")
        assert await streams.disturbed(send(pid, signal.SIGKILL)) == expected
    assert streams.resumptions == STREAMS
    assert mesh.pid("engine") != pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_generation_instance_is_lost(
    mesh: RunningMesh, expected: list[Answer], number: signal.Signals
) -> None:
    await until_serving(mesh, "generation", 1)
    with process(mesh, "mlxmesh_generation", "--listen", "127.0.0.1:0") as other:
        await until_serving(mesh, "generation", 2)
        async with MeshClient(mesh.address, attempts=1) as client:
            await until_used(client, "generation", 2)
            streams = Streams(client)
            assert await streams.disturbed(send(other.pid, number)) == expected
    assert 0 < streams.resumptions < STREAMS


@asynccontextmanager
async def two_engines(mesh: RunningMesh) -> AsyncIterator[dict[str, int]]:
    """The process of each engine."""
    assert mesh.command("load", "pocket", "--replicas", "2").returncode == 0
    try:
        rows = await until_serving(mesh, "engine", 2)
        pids = {row["instance_id"]: row["pid"] for row in rows}
        try:
            yield pids
        finally:
            for pid in pids.values():
                # One that is frozen would be asked to leave, and waited for until it is killed.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
    finally:
        assert mesh.command("load", "pocket", "--replicas", "1").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_one_of_two_engines_is_lost(
    mesh: RunningMesh, expected: list[Answer], number: signal.Signals
) -> None:
    async with two_engines(mesh) as pids, MeshClient(mesh.address, attempts=1) as client:
        streams = Streams(client)

        def lose_one() -> None:
            # A new engine may not have been found yet, and then runs nothing.
            os.kill(pids[streams.engines[0]], number)

        assert await streams.disturbed(lose_one) == expected
        assert streams.resumptions > 0


async def test_a_gateway_is_killed(mesh: RunningMesh, expected: list[Answer]) -> None:
    with process(mesh, "mlxmesh_gateway", "--listen", "127.0.0.1:0") as other:
        rows = await until_serving(mesh, "gateway", 2)
        [address] = [row["address"] for row in rows if row["pid"] == other.pid]
        async with MeshClient(address, gateways=[mesh.address]) as client:
            assert await Streams(client).disturbed(send(other.pid, signal.SIGKILL)) == expected


async def test_an_answer_is_read_again_by_its_id(mesh: RunningMesh) -> None:
    asked = ("generate", "Tell me a story.", "--request-id", "my-story", "--address", mesh.address)
    first = mesh.command(*asked)
    assert first.returncode == 0, first.stderr
    assert len(first.stdout) > 20
    again = mesh.command("attach", "my-story", "--address", mesh.address)
    assert again.stdout == first.stdout
    rest = mesh.command("attach", "my-story", "--after", "5", "--address", mesh.address)
    assert first.stdout.endswith(rest.stdout)
    assert mesh.command("attach", "no-such-id", "--address", mesh.address).returncode == 1
