"""kill -9 of an engine: its requests end with a retriable status, and it comes back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import MeshError
from tests.e2e.running_mesh import RunningMesh

STREAMS = 8


async def run_until_error(client: MeshClient, first: asyncio.Event) -> MeshError:
    try:
        async for _ in client.generate("pocket", prompt="A", max_tokens=4000, ignore_eos=True):
            first.set()
    except MeshError as error:
        return error
    pytest.fail("the stream outlived its engine")


async def first_answer(client: MeshClient, timeout_s: float) -> list[int]:
    """The first answer that comes after a crash; until then only retriable errors may come."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            answer = await client.complete("pocket", prompt="Hi", max_tokens=4, timeout_s=10)
        except MeshError as error:
            if not error.retryable or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return list(answer.token_ids)


async def test_requests_end_as_unavailable_and_the_engine_comes_back(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address) as client:
        before = await first_answer(client, timeout_s=10)
        started = [asyncio.Event() for _ in range(STREAMS)]
        streams = [asyncio.create_task(run_until_error(client, event)) for event in started]
        await asyncio.gather(*(event.wait() for event in started))
        pid = mesh.pid("engine")
        os.kill(pid, signal.SIGKILL)
        errors = await asyncio.gather(*streams)
        assert {error.reason for error in errors} == {"ENGINE_LOST"}
        assert all(error.retryable for error in errors)
        assert await first_answer(client, timeout_s=60) == before
    assert mesh.pid("engine") != pid
