"""No client hurts another: while one misbehaves, the calls of all others go well, and memory stays.

The gateway and the attacker are processes of their own; the other client is this one. Nothing here
is timed: an answer that takes DEADLINE_S, a hundred times what it takes in quiet, is a failure.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.telemetry.v1.telemetry_pb2 import HEALTH_SERVING, GetMeshStatusResponse
from mlxmesh_shared.registry import Instance, open_registry
from mlxmesh_shared.settings import MeshSettings
from tests.chaos.attack_calls import COUNT_TOKENS, GENERATE, STATUS
from tests.chaos.attacks import ATTACKS, HTTP_ATTACKS
from tests.fakes.public_services import FakeGeneration, FakeModels, generation_server, model_server

DEADLINE_S = 5.0
ATTACK_S = 4.0
# Requests on their way and those under way, each half a gigabyte, and what telemetry may keep.
MAX_GROWTH_BYTES = 1000 * 2**20
ROOT = Path(__file__).parents[3]


@dataclass
class Running:
    """A gateway that is a process of its own."""

    address: str
    http: str
    process: psutil.Process
    log: Path


@asynccontextmanager
async def running_gateway(directory: Path, listen: str = "127.0.0.1:0") -> AsyncGenerator[Running]:
    registry = open_registry(MeshSettings(data_dir=directory), None)
    servers = {
        "generation": generation_server(FakeGeneration()),
        "model": model_server(FakeModels()),
    }
    for service, server in servers.items():
        address = await server.start()
        await server.set_serving()
        await registry.register(Instance(service, f"{service}-1", address, pid=1))
    arguments = ("--listen", listen, "--data-dir", str(directory), "--http-listen", listen)
    log = directory / "gateway.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mlxmesh_gateway", *arguments, stderr=output, stdout=output
        )
    try:
        async with asyncio.timeout(60):
            instance = await anext(_gateways(registry))
        found = psutil.Process(process.pid)
        yield Running(instance.address, instance.metadata["http"], found, log)
    finally:
        process.kill()
        await process.wait()
        for server in servers.values():
            await server.drain(0, 0)
        await registry.close()


async def _gateways(registry: Any) -> AsyncGenerator[Instance]:
    async for instances in registry.watch("gateway"):
        for instance in instances:
            yield instance


@asynccontextmanager
async def attacker(name: str, address: str) -> AsyncGenerator[asyncio.Task[Counter[str]]]:
    """An attack beside the body; what it comes to in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.attacks", name, address, str(ATTACK_S),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def outcome() -> Counter[str]:
        output, _ = await process.communicate()
        return Counter(json.loads(output))

    task = asyncio.create_task(outcome())
    try:
        yield task
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.gather(task, return_exceptions=True)


class OtherClient:
    """Calls what clients call, one after another, on a connection of its own."""

    def __init__(self, gateway: Running, channel: aio.Channel) -> None:
        self._http = f"http://{gateway.http}"
        self._channel = channel

    async def call_everything(self) -> None:
        """Raises whatever goes wrong, or takes too long."""
        health: Any = self._channel.unary_unary("/grpc.health.v1.Health/Check")
        count: Any = self._channel.unary_unary(COUNT_TOKENS)
        generate: Any = self._channel.unary_stream(GENERATE)
        asked = g.CountTokensRequest(model="pocket", prompt="a b").SerializeToString()
        mine = (("mlxmesh-caller", "another"),)
        answer = await health(b"", timeout=DEADLINE_S)
        assert health_pb2.HealthCheckResponse.FromString(answer).status == 1
        await count(asked, timeout=DEADLINE_S, metadata=mine)
        request = g.GenerateRequest(model="pocket", prompt="a b").SerializeToString()
        answers = [each async for each in generate(request, timeout=DEADLINE_S, metadata=mine)]
        assert len(answers) == 4
        # A new connection each, as probes and scrapers have it.
        async with httpx2.AsyncClient(timeout=DEADLINE_S) as client:
            for path in ("healthz", "metrics"):
                assert (await client.get(f"{self._http}/{path}")).status_code == 200


ON_GRPC = [(name, "grpc") for name in ATTACKS]
ON_HTTP = [(name, "http") for name in HTTP_ATTACKS]


@pytest.mark.parametrize(("name", "port"), [*ON_GRPC, *ON_HTTP])
async def test_others_are_served_meanwhile(tmp_path: Path, name: str, port: str) -> None:
    async with running_gateway(tmp_path) as gateway:
        attacked = gateway.address if port == "grpc" else gateway.http
        async with aio.insecure_channel(gateway.address) as channel:
            client = OtherClient(gateway, channel)
            await client.call_everything()
            quiet_bytes = most_bytes = gateway.process.memory_info().rss
            rounds = 0
            async with attacker(name, attacked) as attack:
                while not attack.done():
                    await client.call_everything()
                    most_bytes = max(most_bytes, gateway.process.memory_info().rss)
                    rounds += 1
                    await asyncio.sleep(0.05)
                outcomes = await attack
            await client.call_everything()
        assert outcomes.total() > 0, "the attack did nothing"
        assert outcomes["INTERNAL"] == outcomes["UNKNOWN"] == 0
        assert rounds > 3
        assert most_bytes - quiet_bytes < MAX_GROWTH_BYTES
        # A line for each call, of which a fast host makes more in the same time.
        assert gateway.log.stat().st_size < max(5 * 2**20, 512 * outcomes.total())


async def test_all_of_it_on_ipv6(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, "[::1]:0") as gateway:
        assert gateway.address.startswith("[::1]:")
        assert gateway.http.startswith("[::1]:")
        async with aio.insecure_channel(gateway.address) as channel:
            await OtherClient(gateway, channel).call_everything()
            status: Any = channel.unary_unary(STATUS)
            answer = GetMeshStatusResponse.FromString(await status(b"", timeout=DEADLINE_S))
        health = {one.service: one.health for one in answer.instances}
        assert health["gateway"] == HEALTH_SERVING
