"""A supervised process: restarted when it ends, stopped with grace, gone with its parent."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from mlxmesh_launcher.child import Child
from mlxmesh_shared.errors import ServiceUnavailable

SLEEP = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('ready', flush=True); time.sleep(60)"
)


def child(tmp_path: Path, code: str) -> Child:
    return Child(name="sleeper", command=lambda: [sys.executable, "-c", code], log=tmp_path / "log")


@pytest.fixture
async def sleeper(tmp_path: Path) -> AsyncIterator[Child]:
    process = child(tmp_path, SLEEP)
    await process.spawn()
    yield process
    await process.stop(5)


async def wait_for_another_pid(process: Child, old: int) -> int:
    async with asyncio.timeout(20):
        while process.pid in (None, old):
            await asyncio.sleep(0.02)
    assert process.pid is not None
    return process.pid


async def test_a_killed_process_is_started_again(sleeper: Child) -> None:
    sleeper.keep_running()
    old = sleeper.pid
    assert old is not None
    psutil.Process(old).kill()
    await wait_for_another_pid(sleeper, old)
    assert sleeper.restarts == 1


async def test_stop_ends_it_for_good(sleeper: Child) -> None:
    sleeper.keep_running()
    pid = sleeper.pid
    assert pid is not None
    await sleeper.stop(5)
    assert sleeper.pid is None
    assert not psutil.pid_exists(pid)


async def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    process = child(tmp_path, STUBBORN)
    await process.spawn()
    async with asyncio.timeout(20):
        while "ready" not in (tmp_path / "log").read_text():
            await asyncio.sleep(0.02)
    await process.stop(0.2)
    assert process.pid is None


async def test_one_that_ends_at_the_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    process = child(tmp_path, "import sys; sys.exit('port 50051 is taken')")
    await process.spawn()
    with pytest.raises(ServiceUnavailable, match="code 1: port 50051 is taken"):
        await process.ended()


async def test_it_can_see_that_its_parent_is_gone(tmp_path: Path) -> None:
    """The child's stdin ends when the parent does, even by kill -9."""
    watcher = "import sys; sys.stdin.read(); open(sys.argv[1], 'w').close()"
    script = (
        "import asyncio, sys, os, pathlib\n"
        "from mlxmesh_launcher.child import Child\n"
        "async def main():\n"
        f"    command = [sys.executable, '-c', {watcher!r}, sys.argv[1]]\n"
        "    log = pathlib.Path(sys.argv[2])\n"
        "    await Child(name='c', command=lambda: command, log=log).spawn()\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    seen = tmp_path / "seen"
    command = [sys.executable, "-c", script, str(seen), str(tmp_path / "log")]
    assert await asyncio.to_thread(subprocess.call, command) == -9
    async with asyncio.timeout(20):
        while not seen.exists():
            await asyncio.sleep(0.02)
