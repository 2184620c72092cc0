"""Names and priorities that callers choose: they starve nobody and become nobody's labels."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import open_channel
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

FEW_PLACES = {"MLXMESH_ENGINE_MAX_RUNNING": "2"}
LOUD, QUIET = 120, 10
NAMES = 400
EXPORT_INTERVAL_S = 5.0
"""After so long each process has told its metrics again."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    running = start_mesh(tmp_path_factory.mktemp("mesh"), "--http-port", "0", env=FEW_PLACES)
    yield running
    stop_mesh(running)


async def generate(
    stub: GenerationServiceStub, caller: str, model: str = "pocket", **options: Any
) -> grpc.StatusCode:
    request = GenerateRequest(model=model, prompt="Hi", ignore_eos=True, **options)
    try:
        call = stub.Generate(request, metadata=(("mlxmesh-caller", caller),), timeout=120)
        async for _ in call:
            pass
    except MeshError as error:
        return error.code
    return grpc.StatusCode.OK


async def test_no_priority_starves_another_caller(mesh: RunningMesh) -> None:
    """Two places, a real engine: 120 of one caller at priority 100, 10 of another at -100."""
    ended: list[str] = []

    async def one(stub: GenerationServiceStub, caller: str, priority: int) -> None:
        code = await generate(stub, caller, max_tokens=24, priority=priority)
        assert code is grpc.StatusCode.OK
        ended.append(caller)

    async with open_channel(mesh.address) as channel:
        stub = GenerationServiceStub(channel)
        loud = [asyncio.create_task(one(stub, "loud", 100)) for _ in range(LOUD)]
        while not ended:
            await asyncio.sleep(0.01)
        before = len(ended)
        quiet = [asyncio.create_task(one(stub, "quiet", -100)) for _ in range(QUIET)]
        await asyncio.gather(*loud, *quiet)
    last = len(ended) - ended[::-1].index("quiet")
    # With equal shares, as many of the loud one end meanwhile; some more until the quiet one waits.
    assert last - before < 3 * QUIET + LOUD / 4, ended


def metrics_of(mesh: RunningMesh) -> str:
    http = json.loads((mesh.data_dir / "launcher.json").read_text())["http"]
    with urllib.request.urlopen(f"http://{http}/metrics") as answer:
        return answer.read().decode()


async def test_no_name_of_a_caller_becomes_a_label(mesh: RunningMesh) -> None:
    async with open_channel(mesh.address) as channel:
        stub = GenerationServiceStub(channel)

        async def method(number: int) -> grpc.StatusCode:
            call = channel.unary_unary(f"/mlxmesh.generation.v1.GenerationService/Chosen{number}")
            try:
                await call(b"", timeout=30)
            except MeshError as error:
                return error.code
            return grpc.StatusCode.OK

        async def all_four(number: int) -> None:
            name = f"Chosen{number}"
            models = await generate(stub, "c", model=name)
            assert models is grpc.StatusCode.NOT_FOUND
            assert await method(number) is grpc.StatusCode.UNIMPLEMENTED
            if number % 8 == 0:
                assert await generate(stub, name, max_tokens=1, request_id=name) is (
                    grpc.StatusCode.OK
                )

        for start in range(0, NAMES, 20):
            await asyncio.gather(*map(all_four, range(start, start + 20)))
    await asyncio.sleep(2 * EXPORT_INTERVAL_S)
    metrics = ""
    async with asyncio.timeout(60):
        while 'rpc_method="(unknown)"' not in metrics:
            await asyncio.sleep(1)
            metrics = await asyncio.to_thread(metrics_of, mesh)
    assert re.findall(r".*Chosen\d.*", metrics) == []
