"""More than the mesh can take, with a simulated engine: waiting is told honestly, and shared."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, GenerateResponse
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.channels import open_channel
from mlxmesh_shared.errors import MeshError
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

SETTINGS = """
[engine]
backend = "simulated"
simulated_step_ms = 2
max_running = 64
max_waiting = 0
"""
# More than every window between an engine and a reader holds, in tokens.
LONG = 3000
STREAMS = 64


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    data_dir = tmp_path_factory.mktemp("mesh")
    (data_dir / "mlxmesh.toml").write_text(SETTINGS)
    running = start_mesh(data_dir)
    yield running
    stop_mesh(running)


def ask(max_tokens: int, seed: int = 1) -> GenerateRequest:
    request = GenerateRequest(model="pocket", prompt="Hi", max_tokens=max_tokens, ignore_eos=True)
    request.sampling.seed = seed
    return request


async def read_all(call: object) -> list[GenerateResponse]:
    return [response async for response in call]  # pyright: ignore


def tokens(responses: list[GenerateResponse]) -> list[int]:
    return [token for response in responses for token in response.delta.token_ids]


def memory_bytes(mesh: RunningMesh) -> int:
    return sum(psutil.Process(mesh.pid(name)).memory_info().rss for name in ("gateway", "generation"))


async def test_a_reader_that_stops_costs_only_itself(mesh: RunningMesh) -> None:
    """The others get every token meanwhile; it reads on later and has lost none."""
    async with open_channel(mesh.address, window_bytes=1024) as channel:
        stub = GenerationServiceStub(channel)
        alone = tokens(await read_all(stub.Generate(ask(LONG))))
        before_bytes = memory_bytes(mesh)
        stopped = stub.Generate(ask(LONG))
        first = await stopped.read()
        assert isinstance(first, GenerateResponse)
        others = await asyncio.gather(
            *(read_all(stub.Generate(ask(LONG))) for _ in range(STREAMS - 1))
        )
        assert all(tokens(responses) == alone for responses in others)
        assert memory_bytes(mesh) - before_bytes < 64 * 2**20
        rest = await read_all(stopped)
    assert tokens([first, *rest]) == alone
    assert [response.sequence for response in (first, *rest)] == list(range(1, len(rest) + 2))
    assert rest[-1].HasField("finished")
    assert len(rest) < LONG / 4  # what waited for it had joined


class Client:
    """Asks until it is let in, as often and as late as it is told."""

    def __init__(self, stub: GenerationServiceStub, caller: str) -> None:
        self._stub = stub
        self._metadata = (("mlxmesh-caller", caller),)
        self.refusals = 0

    async def run(self, max_tokens: int) -> None:
        while True:
            try:
                await read_all(self._stub.Generate(ask(max_tokens), metadata=self._metadata))
            except MeshError as error:
                assert error.reason in ("QUEUE_FULL", "TOO_MANY_REQUESTS"), error.reason
                assert error.retry_delay_s is not None
                assert 0.1 <= error.retry_delay_s <= 60
                self.refusals += 1
                await asyncio.sleep(error.retry_delay_s)
            else:
                return


async def test_who_comes_back_when_told_gets_in_mostly_at_once(mesh: RunningMesh) -> None:
    """Five times as many as there are places, on the run for several turns of the places."""
    chance = random.Random(0)
    async with open_channel(mesh.address) as channel:
        stub = GenerationServiceStub(channel)
        clients = [Client(stub, f"caller-{number % 8}") for number in range(5 * STREAMS)]
        await asyncio.gather(*(client.run(chance.randint(100, 600)) for client in clients))
    refused = [client.refusals for client in clients if client.refusals]
    assert len(refused) >= 3 * STREAMS
    assert sum(count == 1 for count in refused) / len(refused) > 0.5
