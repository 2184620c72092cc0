"""More than the mesh can take, with a simulated engine: waiting is told honestly, and shared."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, Iterator

import grpc
import psutil
import pytest

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, GenerateResponse
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.error_status import from_rpc_error
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

SETTINGS = """
[engine]
backend = "simulated"
simulated_step_ms = 10
max_running = 64
max_waiting = 0
"""
# In tokens; more than the windows between an engine and a reader hold one by one.
LONG = 600
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


async def read_all(call: AsyncIterable[GenerateResponse]) -> list[GenerateResponse]:
    return [response async for response in call]


def tokens(responses: list[GenerateResponse]) -> list[int]:
    return [token for response in responses for token in response.delta.token_ids]


def memory_bytes(pids: list[int]) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)


async def test_a_reader_that_stops_costs_only_itself(mesh: RunningMesh) -> None:
    """The others get every token meanwhile; it reads on later and has lost none."""
    async with open_channel(mesh.address, window_bytes=1024) as channel:
        stub = GenerationServiceStub(channel)
        alone = tokens(await read_all(stub.Generate(ask(LONG))))
        pids = [instance["pid"] for instance in mesh.status()["instances"]]
        before_bytes = memory_bytes(pids)
        stopped = aiter(stub.Generate(ask(LONG)))
        first = await anext(stopped)
        others = await asyncio.gather(
            *(read_all(stub.Generate(ask(LONG))) for _ in range(STREAMS - 1))
        )
        assert all(tokens(responses) == alone for responses in others)
        assert memory_bytes(pids) - before_bytes < 64 * 2**20
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
            except grpc.aio.AioRpcError as status:
                error = from_rpc_error(status)
                assert error.reason in ("QUEUE_FULL", "TOO_MANY_REQUESTS"), error.reason
                assert error.retry_delay_s is not None
                assert 0.1 <= error.retry_delay_s <= 60
                self.refusals += 1
                await asyncio.sleep(error.retry_delay_s)
            else:
                return


async def test_who_comes_back_when_told_gets_in_mostly_at_once(mesh: RunningMesh) -> None:
    """Twice as many as there are places come while all of these are taken."""
    chance = random.Random(0)
    # A plain channel: at this load a busy host answers pings late, which ours takes for a loss.
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        stub = GenerationServiceStub(channel)
        present = [aiter(stub.Generate(ask(chance.randint(300, 500)))) for _ in range(STREAMS)]
        await asyncio.gather(*map(anext, present))
        clients = [Client(stub, f"caller-{number % 8}") for number in range(2 * STREAMS)]
        await asyncio.gather(
            *map(read_all, present), *(client.run(chance.randint(50, 150)) for client in clients)
        )
    refused = [client.refusals for client in clients if client.refusals]
    assert len(refused) >= STREAMS
    assert sum(count == 1 for count in refused) / len(refused) > 0.5
