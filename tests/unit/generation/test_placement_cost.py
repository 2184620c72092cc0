"""How the cost of a placement grows: operations are counted, nothing is timed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import GenerationRequest, PromptText
from mlxmesh_generation.placement.engines import Engines
from mlxmesh_generation.placement.router import BLOCK_TOKENS, PrefixAffinity, prefixes
from mlxmesh_generation.placement.sequence import SequenceRequest
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.registry.port import Instance
from tests.fakes.registry import InMemoryRegistry
from tests.operations import operations
from tests.scale.mesh_host import Ignore, no_connection

POCKET = ModelVersion("pocket", 1, "", 1024, 500, 1)
ASK = SequenceRequest(
    GenerationRequest("r", ModelReference("pocket"), PromptText("x")),
    [1] * 100,
    max_tokens=1,
    seed=0,
)
OF_POCKET = 4


def engine(number: int, model: str) -> Instance:
    metadata = {"model": model, "version": "1"}
    return Instance("engine", f"{model}-{number}", f"127.0.0.1:{number + 1}", 1, metadata)


@asynccontextmanager
async def engines(*, others: int) -> AsyncIterator[Engines]:
    """Four engines of a version and so many of other models, all connected."""
    registry = InMemoryRegistry()
    for number in range(OF_POCKET):
        await registry.register(engine(number, "pocket"))
    for number in range(others):
        await registry.register(engine(number, f"other-{number % 7}"))
    engines = Engines(registry, open_=no_connection)
    running = asyncio.create_task(engines.run())
    try:
        async with asyncio.timeout(30):
            while engines.encoders(POCKET) < OF_POCKET:
                await asyncio.sleep(0.001)
        yield engines
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def cost_of_placement(others: int) -> int:
    async with engines(others=others) as placing:
        placing.place(POCKET, ASK, Ignore()).drop()  # what is done only once
        return operations(lambda: placing.place(POCKET, ASK, Ignore()).drop())


async def test_a_placement_costs_the_same_among_any_number_of_other_engines() -> None:
    few, many = await cost_of_placement(others=5), await cost_of_placement(others=500)
    assert many <= 1.1 * few


async def test_a_check_for_spare_work_is_free_where_there_is_none() -> None:
    async with engines(others=500) as placing:
        assert operations(placing.yield_to_others) < 20


@pytest.mark.parametrize("gone", [1, 100])
def test_many_lost_engines_are_forgotten_in_one_pass(gone: int) -> None:
    affinity, blocks = PrefixAffinity(), 1000
    for prompt in range(blocks):
        tokens = range(prompt * BLOCK_TOKENS, (prompt + 1) * BLOCK_TOKENS)
        affinity.note(prefixes(tokens), f"engine-{prompt % 200}")

    cost = operations(lambda: affinity.forget([f"engine-{number}" for number in range(gone)]))

    assert len(affinity) == blocks - blocks // 200 * gone
    assert cost < 2 * blocks
