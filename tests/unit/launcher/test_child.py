"""A supervised process: restarted when it ends, stopped with grace, gone with its parent."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from mlxmesh_launcher.child import Backoff, Child, Crash, exit_words, last_message
from mlxmesh_launcher.launcher_events import crash_event, service_message
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.host.log_file import LogFile

SLEEP = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('ready', flush=True); time.sleep(60)"
)


def child(tmp_path: Path, code: str, on_crash: Callable[[Crash], None] = lambda _: None) -> Child:
    return Child(
        name="sleeper",
        command=lambda: [sys.executable, "-c", code],
        log=LogFile(tmp_path / "log"),
        backoff=Backoff(first_s=0.01, max_s=0.05),
        on_crash=on_crash,
    )


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


async def test_one_that_ends_again_and_again_is_never_given_up(tmp_path: Path) -> None:
    crashes: list[Crash] = []
    process = child(tmp_path, "import sys; sys.exit('no space left')", crashes.append)
    await process.spawn()
    process.keep_running()
    async with asyncio.timeout(60):
        while len(crashes) < 15:
            await asyncio.sleep(0.02)
    last = crashes[-1]
    assert (last.name, last.last_exit) == ("sleeper", "code 1: no space left")
    assert [crash.failures for crash in crashes] == list(range(1, len(crashes) + 1))
    assert crash_event(last).last_exit == last.last_exit
    message = service_message(process)
    assert message.last_exit == "code 1: no space left"
    assert message.restarts >= 14
    await process.stop(5)


async def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    """As when the log's disk is full, or its directory cannot be written."""
    crashes: list[Crash] = []
    process = child(tmp_path, "pass", crashes.append)
    await process.spawn()
    (tmp_path / "log").unlink()
    (tmp_path / "log").mkdir()
    process.keep_running()
    async with asyncio.timeout(20):
        while not any("cannot be started" in crash.last_exit for crash in crashes):
            await asyncio.sleep(0.02)
    (tmp_path / "log").rmdir()
    restarts = process.restarts
    async with asyncio.timeout(20):
        while "code 0" not in crashes[-1].last_exit:
            await asyncio.sleep(0.02)
    assert process.restarts > restarts
    await process.stop(5)


async def test_while_it_is_down_it_tells_when_it_is_started_again(tmp_path: Path) -> None:
    process = Child(
        name="model",
        command=lambda: [sys.executable, "-c", "pass"],
        log=LogFile(tmp_path / "log"),
        backoff=Backoff(first_s=60),
    )
    await process.spawn()
    process.keep_running()
    async with asyncio.timeout(20):
        while process.crash is None:
            await asyncio.sleep(0.02)
    message = service_message(process)
    assert (message.name, message.pid, message.failures) == ("model", 0, 1)
    assert 50_000 < message.restart_in_ms <= 60_000
    await process.stop(5)


async def test_a_steady_run_is_followed_by_a_restart_at_once(tmp_path: Path) -> None:
    crashes: list[Crash] = []
    process = Child(
        name="model",
        command=lambda: [sys.executable, "-c", "pass"],
        log=LogFile(tmp_path / "log"),
        backoff=Backoff(first_s=60, steady_s=0),
        on_crash=crashes.append,
    )
    await process.spawn()
    process.keep_running()
    async with asyncio.timeout(20):
        while len(crashes) < 3:
            await asyncio.sleep(0.02)
    assert {crash.failures for crash in crashes} == {0}
    await process.stop(5)


def test_how_a_process_ended_is_told_in_words() -> None:
    assert exit_words(3) == "code 3"
    assert exit_words(-9) == "SIGKILL"
    assert exit_words(-99) == "signal 99"
    assert last_message('one | {"level": "error", "message": "no space left"}') == "no space left"
    assert last_message("one | not JSON") == "not JSON"
    assert last_message("[1]") == "[1]"


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
        "from mlxmesh_shared.host.log_file import LogFile\n"
        "async def main():\n"
        f"    command = [sys.executable, '-c', {watcher!r}, sys.argv[1]]\n"
        "    log = LogFile(pathlib.Path(sys.argv[2]))\n"
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
