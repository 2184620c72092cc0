"""Responses whose gateway is killed: nothing is missing and nothing is repeated."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI

from mlxmesh_client import MeshClient
from mlxmesh_shared.registry.directory import DirectoryRegistry
from tests.e2e.running_mesh import RunningMesh, until_used

STREAMS = 6
GREEDY = {"ignore_eos": True}


def asked(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "model": "pocket",
        "input": f"Tell me story {number}.",
        "max_output_tokens": 1500,
        "temperature": 0,
        "extra_body": GREEDY,
        **fields,
    }


async def http_of(mesh: RunningMesh, *, pid: int | None = None) -> str:
    """The HTTP address of the gateway that has the pid, or has not."""
    registry = DirectoryRegistry(mesh.data_dir / "registry")
    async with asyncio.timeout(120):
        while True:
            for one in await registry.resolve("gateway"):
                if (one.pid == pid) if pid else one.address == mesh.address:
                    return one.metadata["http"]
            await asyncio.sleep(0.1)


@asynccontextmanager
async def client(address: str) -> AsyncGenerator[Any]:
    base_url = f"http://{address}/v1"
    async with AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as opened:
        yield opened


@asynccontextmanager
async def process(mesh: RunningMesh, *arguments: str) -> AsyncGenerator[int]:
    """The pid of one more process of the mesh."""
    command = [sys.executable, "-m", *arguments, "--data-dir", str(mesh.data_dir)]
    started = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        yield started.pid
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


@asynccontextmanager
async def second_gateway(mesh: RunningMesh) -> AsyncGenerator[tuple[int, str]]:
    """The pid and the HTTP address of one more gateway."""
    ports = ("--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    async with process(mesh, "mlxmesh_gateway", *ports) as pid:
        address = await http_of(mesh, pid=pid)
        await until_answering(address)
        yield pid, address


async def until_answering(address: str) -> None:
    """Until a gateway that has just begun knows the others."""
    async with asyncio.timeout(60), client(address) as asking:
        while True:
            with contextlib.suppress(APIError):
                await asking.completions.create(model="pocket", prompt="Hi", max_tokens=1)
                return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def second_generation(mesh: RunningMesh) -> AsyncGenerator[int]:
    """The pid of one more generation instance, once it serves."""
    async with process(mesh, "mlxmesh_generation", "--listen", "127.0.0.1:0") as pid:
        async with MeshClient(mesh.address) as grpc:
            await until_used(grpc, "generation", 2, timeout_s=120)
        yield pid


async def whole(opened: Any, response_id: str) -> list[Any]:
    """All events of a response; tries again while its instance is being replaced."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(APIError):
                stream = await opened.responses.retrieve(response_id, stream=True)
                events = [event async for event in stream]
                if events[-1].type != "error":
                    return events
            await asyncio.sleep(0.1)


async def text_of(mesh: RunningMesh, number: int) -> str:
    async with client(await http_of(mesh)) as calm:
        return (await calm.responses.create(**asked(number))).output_text


async def read_until_lost(stream: Any, begun: asyncio.Event) -> list[Any]:
    events: list[Any] = []
    try:
        async for event in stream:
            events.append(event)
            if len(events) > 5:
                begun.set()
    except APIError:
        pass
    return events


def check(events: list[Any], text: str) -> None:
    assert [event.sequence_number for event in events] == [*range(len(events))]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text == text


@pytest.mark.parametrize("by", ["starting_after", "last-event-id"])
async def test_streams_are_resumed_through_another_gateway(mesh: RunningMesh, by: str) -> None:
    async def one(number: int, doomed: Any, other: Any, begun: asyncio.Event) -> bool:
        """Whether it was broken."""
        key = f"{by}-{number}"
        keyed = {"extra_headers": {"Idempotency-Key": key}} if by == "last-event-id" else {}
        stream = await doomed.responses.create(**asked(number, stream=True, **keyed))
        events = await read_until_lost(stream, begun)
        broken = events[-1].type != "response.incomplete"
        after = events[-1].sequence_number
        if by == "starting_after":
            response_id = events[0].response.id
            rest = await other.responses.retrieve(response_id, stream=True, starting_after=after)
        else:
            headers = {"Idempotency-Key": key, "Last-Event-ID": str(after)}
            resumed = asked(number, stream=True, extra_headers=headers)
            rest = await other.responses.create(**resumed)
        if broken:
            events += [event async for event in rest]
        check(events, texts[number])
        return broken

    texts = await asyncio.gather(*(text_of(mesh, number) for number in range(STREAMS)))
    async with (
        second_gateway(mesh) as (pid, address),
        client(address) as doomed,
        client(await http_of(mesh)) as other,
    ):
        begun = [asyncio.Event() for _ in range(STREAMS)]
        streams = asyncio.gather(*(one(n, doomed, other, begun[n]) for n in range(STREAMS)))
        await asyncio.gather(*(event.wait() for event in begun))
        os.kill(pid, signal.SIGKILL)
        assert sum(await streams) > 0


async def test_a_background_response_survives_its_gateway(mesh: RunningMesh) -> None:
    expected = await text_of(mesh, 0)
    async with second_gateway(mesh) as (pid, address), client(address) as doomed:
        response = await doomed.responses.create(**asked(0, background=True))
        os.kill(pid, signal.SIGKILL)
    async with client(await http_of(mesh)) as other:
        stream = await other.responses.retrieve(response.id, stream=True)
        check([event async for event in stream], expected)
        found = await other.responses.retrieve(response.id)
        assert (found.status, found.output_text) == ("incomplete", expected)


async def test_a_background_response_survives_its_engine(mesh: RunningMesh) -> None:
    expected = await text_of(mesh, 0)
    async with client(await http_of(mesh)) as calm:
        response = await calm.responses.create(**asked(0, background=True))
        os.kill(mesh.pid("engine"), signal.SIGKILL)
        stream = await calm.responses.retrieve(response.id, stream=True)
        check([event async for event in stream], expected)


async def test_background_responses_survive_their_generation_instance(mesh: RunningMesh) -> None:
    texts = await asyncio.gather(*(text_of(mesh, number) for number in range(STREAMS)))
    ids: list[str] = []
    async with second_generation(mesh) as pid, client(await http_of(mesh)) as calm:
        for number in range(STREAMS):
            ids.append((await calm.responses.create(**asked(number, background=True))).id)
        os.kill(pid, signal.SIGKILL)
        for response_id, text in zip(ids, texts, strict=True):
            check(await whole(calm, response_id), text)
            assert (await calm.responses.retrieve(response_id)).output_text == text
    async with MeshClient(mesh.address) as grpc:
        found = [await grpc.get_generation(response_id) for response_id in ids]
    assert sum(one.finished.timings.resumptions for one in found) > 0
