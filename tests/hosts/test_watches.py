"""A silent stream between two hosts, whose news is lost while the network is cut."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlxmesh_shared.rpc.channels import WATCH_TIMEOUTS
from tests.hosts.network import Network
from tests.hosts.setup import until

pytestmark = [pytest.mark.tools, pytest.mark.timeout(180)]
# Longer than the server waits for a packet to be acknowledged.
CUT_S = 8.0
# Changes its health with each line that it reads.
SERVER = """
import asyncio, sys
from mlxmesh_shared.rpc.server import MeshServer

async def main():
    server = MeshServer(listen="0.0.0.0:7100", services=(), service_names=())
    await server.start()
    while await asyncio.to_thread(sys.stdin.readline):
        await server.set_serving()

asyncio.run(main())
"""
WATCHER = """
import asyncio, sys
from grpc_health.v1 import health_pb2
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import WATCH_TIMEOUTS, open_channel

async def main():
    channel = open_channel(sys.argv[1], timeouts=WATCH_TIMEOUTS)
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    while True:
        try:
            async for news in watch(health_pb2.HealthCheckRequest()):
                print(health_pb2.HealthCheckResponse.ServingStatus.Name(news.status), flush=True)
        except MeshError:
            await asyncio.sleep(0.25)

asyncio.run(main())
"""


def test_a_watch_gets_the_news_soon_after_the_network_is_back(tmp_path: Path) -> None:
    log = tmp_path / "watcher.log"
    with Network("a", "b") as network:
        words = (sys.executable, "-c")
        server = network["b"].start(
            *words, SERVER, log=tmp_path / "server.log", stdin=subprocess.PIPE
        )
        network["a"].start(*words, WATCHER, f"{network['b'].address}:7100", log=log)
        until(lambda: log.read_text() == "NOT_SERVING\n")

        network.split("a", "b")
        assert server.stdin is not None
        server.stdin.write(b"\n")
        server.stdin.flush()
        time.sleep(CUT_S)
        assert log.read_text() == "NOT_SERVING\n"
        network.heal()

        took_s = until(lambda: log.read_text().endswith("\nSERVING\n"))
        server.stdin.close()
    # Its next ping finds that the server has given the connection up.
    assert WATCH_TIMEOUTS.remote_ping_interval_s is not None
    assert took_s < 4 * WATCH_TIMEOUTS.remote_ping_interval_s
