"""The jobs service as a process: registration, drain, kills, and its reports of problems."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.settings import MeshSettings
from tests.fakes.job_worker import ScriptedWorker, completed, progress

from .conftest import Client


@asynccontextmanager
async def running(data_dir: Path, **env: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A jobs service; it is killed at the end if it still runs."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLXMESH_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mlxmesh_jobs", "--data-dir", str(data_dir), env=own | env,
        stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def registry_of(data_dir: Path) -> AsyncGenerator[Registry]:
    registry = open_registry(MeshSettings(data_dir=data_dir))
    try:
        yield registry
    finally:
        await registry.close()


async def registered(registry: Registry, process: asyncio.subprocess.Process) -> Instance:
    async with asyncio.timeout(60):
        async for instances in registry.watch("jobs"):
            for instance in instances:
                if instance.pid == process.pid:
                    return instance
    raise AssertionError("the watch ended")


async def test_a_killed_jobs_service_goes_on_with_what_it_acknowledged(tmp_path: Path) -> None:
    async with registry_of(tmp_path) as registry:
        async with running(tmp_path) as first:
            instance = await registered(registry, first)
            async with open_channel(instance.address) as channel:
                worker = ScriptedWorker(channel)
                await worker.connect()
                await Client(channel, "user:ada").submit("runs")
                assignment = await worker.next()
                await worker.report(progress(assignment, 0.5))
                await Client(channel, "user:ada").submit("waits", queue="later")
                first.kill()
                await worker.wait_ended()
                await worker.pause()
        async with running(tmp_path) as second:
            instance = await registered(registry, second)
            async with open_channel(instance.address) as channel:
                ada = Client(channel, "user:ada")
                await worker.connect(channel)
                await worker.report(completed(assignment))
                assert (await ada.job("runs")).state == pb.JOB_STATE_COMPLETED
                assert (await worker.next()).id.job_id == "waits"
                await worker.kill()


async def test_a_stop_sends_workers_elsewhere_and_loses_nothing(tmp_path: Path) -> None:
    async with registry_of(tmp_path) as registry, running(tmp_path) as process:
        instance = await registered(registry, process)
        async with open_channel(instance.address) as channel:
            worker = ScriptedWorker(channel)
            await worker.connect()
            await Client(channel, "user:ada").submit("j1")
            assignment = await worker.next()
            await worker.report(completed(assignment))
            process.send_signal(signal.SIGTERM)
            error = await worker.wait_ended()
            assert isinstance(error, MeshError)
            assert error.reason == "DRAINING"
            await worker.pause()
        assert await asyncio.wait_for(process.wait(), 60) == 0
        assert not await registry.resolve("jobs")
        async with running(tmp_path) as next_one:
            instance = await registered(registry, next_one)
            async with open_channel(instance.address) as channel:
                job = await Client(channel, "user:ada").job("j1")
                assert job.state == pb.JOB_STATE_COMPLETED
