"""What ends the engine's process."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from mlxmesh.engine.v1.engine_pb2 import ExecuteRequest, ExecuteResponse, Submit
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh_engine.service.serve import stopped_or_dead
from mlxmesh_shared.errors import EngineFailed
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.engine_child import engine_child


async def test_a_dead_backend_ends_the_process_with_an_error() -> None:
    dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(stopped_or_dead(dead))
    await asyncio.sleep(0)
    dead.set_exception(RuntimeError("[malloc] Unable to allocate"))
    with pytest.raises(EngineFailed, match="backend died"):
        await asyncio.wait_for(waiting, 30)


async def test_a_signal_ends_it_without_an_error() -> None:
    dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(stopped_or_dead(dead))
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(waiting, 30)
    assert not dead.done()


async def test_a_stream_without_outputs_gets_the_load(tmp_path: Path) -> None:
    simulated = ("--backend", "simulated", "--simulated-step-ms", "5")
    with engine_child(tmp_path, *simulated) as address:
        async with open_channel(address) as channel, asyncio.timeout(30):
            stub = EngineServiceStub(channel)
            quiet, busy = stub.Execute(), stub.Execute()
            submit = Submit(sequence_id=1, prompt_token_ids=[5], max_tokens=10_000, ignore_eos=True)
            await busy.write(ExecuteRequest(submit=submit))
            running = 0
            while not running:
                response = await quiet.read()
                assert isinstance(response, ExecuteResponse)
                assert not response.outputs
                running = response.load.running
            assert running == 1
            quiet.cancel()
            busy.cancel()
