"""What ends the engine's process."""

import asyncio
import os
import signal

import pytest

from mlxmesh_engine.serve import stopped_or_dead
from mlxmesh_shared.errors import EngineFailed


async def test_a_dead_thread_ends_the_process_with_an_error() -> None:
    dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(stopped_or_dead(dead))
    await asyncio.sleep(0)
    dead.set_exception(RuntimeError("[malloc] Unable to allocate"))
    with pytest.raises(EngineFailed, match="MLX thread died"):
        await asyncio.wait_for(waiting, 10)


async def test_a_signal_ends_it_well() -> None:
    dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(stopped_or_dead(dead))
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(waiting, 10)
    assert not dead.done()
