"""gRPC's own lines on stderr: docs/operations.md says how to turn them off."""

import os
import subprocess
import sys

REFUSED = "Compression algorithm"
PROGRAM = """
import asyncio
import grpc
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions

def server(listen):
    options = ServerOptions(settle_s=0)
    return MeshServer(listen=listen, services=[], service_names=[], options=options)

async def main():
    serving = server("127.0.0.1:0")
    await serving.start()
    async with grpc.aio.insecure_channel(serving.address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            await check(bytes(5000), compression=grpc.Compression.Gzip)
        except grpc.aio.AioRpcError as error:
            print(error.code().name)
    try:
        await server(serving.address).start()
    except IllegalState as error:
        print(error)
    await serving.drain(0)

asyncio.run(main())
"""


def run(verbosity: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GRPC_VERBOSITY": verbosity}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_without_grpcs_own_lines_what_is_wrong_with_the_process_is_still_told() -> None:
    done = run("NONE")

    refused, told = done.stdout.splitlines()
    assert refused == "UNIMPLEMENTED"
    assert "cannot listen on 127.0.0.1:" in told
    assert done.stderr == ""


def test_its_errors_have_a_line_for_each_compressed_call() -> None:
    assert REFUSED in run("ERROR").stderr
