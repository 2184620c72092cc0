"""Which runtimes of the mesh can be asked for a rank, and how far they are."""

import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh_runtime.rank_placement import Candidate
from mlxmesh_runtime.runtimes import MeshRuntimes
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.registry.directory import DirectoryRegistry
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.runtime import GIB, FakeHost, FakeRuntime


class BrokenRuntime(FakeRuntime):
    """Does not know its memory."""

    async def GetRuntimeInfo(
        self, request: pb.GetRuntimeInfoRequest, context: Any
    ) -> pb.GetRuntimeInfoResponse:
        raise IllegalState("it broke")


@asynccontextmanager
async def hosts(tmp_path: Path, *runtimes: FakeRuntime) -> AsyncIterator[DirectoryRegistry]:
    registry = DirectoryRegistry(tmp_path)
    started = [await FakeHost(runtime, registry).start() for runtime in runtimes]
    try:
        yield registry
    finally:
        for host in started:
            await host.crash()
        await registry.close()


async def candidates(registry: DirectoryRegistry) -> dict[str, Candidate]:
    found = await MeshRuntimes("own", registry, open_channel).candidates()
    return {each.runtime_id: each for each in found}


async def test_the_round_trip_to_other_runtimes_is_measured(tmp_path: Path) -> None:
    own, other = FakeRuntime("own"), FakeRuntime("other", available_bytes=3 * GIB)
    async with hosts(tmp_path, own, other) as registry:
        found = await candidates(registry)
    assert found["own"] == Candidate("own", 8 * GIB, 0.0)
    assert found["other"].available_bytes == 3 * GIB
    assert 0 < found["other"].round_trip_ms < math.inf


async def test_a_runtime_that_does_not_respond_has_a_problem(tmp_path: Path) -> None:
    async with hosts(tmp_path, FakeRuntime("own"), BrokenRuntime("broken")) as registry:
        await registry.register(Instance("runtime", "gone", "127.0.0.1:1", os.getpid()))
        found = await candidates(registry)
    assert found["broken"] == Candidate("broken", 0, math.inf, "it broke")
    assert found["gone"].problem
    assert not found["own"].problem
