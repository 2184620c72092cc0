"""The worker as a process: registered, killed, frozen past its lease, and asked to leave."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.registry.port import Registry
from mlxmesh_shared.rpc.health import health
from mlxmesh_shared.settings import MeshSettings
from tests.fakes.waiting import until
from tests.integration.worker.harness import Rig, generation_instance, running_rig
from tests.integration.worker.test_generation import assert_same, until_stored


@asynccontextmanager
async def worker_process(data_dir: Path, **env: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A worker; it is killed at the end if it still runs."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLXMESH_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mlxmesh_worker", "--data-dir", str(data_dir), env=own | env,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.communicate()


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    registry = open_registry(MeshSettings(data_dir=tmp_path))
    yield registry
    await registry.close()


@pytest.fixture
async def rig(tmp_path: Path, tokenizer_dir: Path, registry: Registry) -> AsyncIterator[Rig]:
    async with running_rig(tmp_path, tokenizer_dir, lease_s=3.0) as rig:
        await registry.register(generation_instance(rig.mesh.server.address))
        await registry.register(rig.service.instance)
        rig.mesh.engine.options.step_s = 0.005
        yield rig


async def until_connected(rig: Rig, sessions: int = 1) -> None:
    await until(
        lambda: sum(each.stream is not None for each in rig.jobs.sessions.values()) >= sessions, 60
    )


async def test_it_is_healthy_once_it_is_registered(
    rig: Rig, registry: Registry, tmp_path: Path
) -> None:
    async with worker_process(tmp_path):
        await until_connected(rig)
        async with asyncio.timeout(30):
            while not (found := await registry.resolve("worker")):
                await asyncio.sleep(0.02)
        (session,) = rig.jobs.sessions.values()
        assert session.hello.worker_id == found[0].instance_id
        assert await health(found[0].address) == "serving"


async def test_a_killed_worker_loses_no_token(rig: Rig, tmp_path: Path) -> None:
    expected = await rig.expected()
    async with worker_process(tmp_path) as first, worker_process(tmp_path):
        await until_connected(rig, 2)
        job = rig.generate()
        # Whichever worker has it.
        await until_stored(job, 20)
        session = rig.jobs.sessions[job.session]
        pids = {each.instance_id: each.pid for each in await _workers(tmp_path)}
        os.kill(pids[session.hello.worker_id], signal.SIGKILL)
        await until(lambda: session.stream is None)
        rig.jobs.end_session(session.hello.session)
        await rig.ended(job)
        assert first.pid in pids.values()
    assert_same(job, expected)
    assert job.attempt == 2


async def test_a_worker_that_was_frozen_past_its_lease_has_no_effect(
    rig: Rig, tmp_path: Path
) -> None:
    expected = await rig.expected(max_tokens=400)
    async with AsyncExitStack() as stack:
        frozen = await stack.enter_async_context(worker_process(tmp_path))
        await until_connected(rig)
        job = rig.generate(max_tokens=400)
        await until_stored(job, 20)
        before = job.session
        frozen.send_signal(signal.SIGSTOP)
        rig.mesh.engine.may_step.clear()
        await asyncio.sleep(3.5)
        rig.jobs.end_session(before)
        rig.jobs.sessions[before].free = 0
        await stack.enter_async_context(worker_process(tmp_path))
        await until(lambda: job.attempt == 2, 60)
        rig.mesh.engine.may_step.set()
        frozen.send_signal(signal.SIGCONT)
        await rig.ended(job)
        await until(lambda: len(rig.jobs.sessions) == 3)
        assert frozen.returncode is None
        again = rig.generate("job-2", max_tokens=400)
        await rig.ended(again)
    assert_same(job, expected)
    assert_same(again, expected)
    assert not rig.mesh.engine.cancels, "the frozen worker ended what the other one reads"


async def test_it_gives_back_its_jobs_and_leaves(
    rig: Rig, registry: Registry, tmp_path: Path
) -> None:
    expected = await rig.expected(max_tokens=400)
    async with worker_process(tmp_path, MLXMESH_WORKER_STOP_GRACE_S="0.2") as worker:
        await until_connected(rig)
        job = rig.generate(max_tokens=400)
        await until_stored(job, 20)
        worker.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0
        assert await registry.resolve("worker") == ()
    assert (job.stops, job.state) == (1, "waiting")
    async with worker_process(tmp_path):
        await rig.ended(job)
    assert_same(job, expected)


async def _workers(data_dir: Path):
    registry = open_registry(MeshSettings(data_dir=data_dir))
    try:
        return await registry.resolve("worker")
    finally:
        await registry.close()
