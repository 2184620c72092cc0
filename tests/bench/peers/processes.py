"""Runs one peer: its processes on loopback, each bounded, each stopped by its own id."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from tests.bench.peers.catalogue import Argv, Peer, Site
from tests.bench.peers.completions import complete
from tests.bench.peers.install import PeerFailed
from tests.fakes.ports import free_ports

START_LIMIT_S = 120.0
STOP_GRACE_S = 5.0
POLL_S = 0.5


@asynccontextmanager
async def running(
    peer: Peer, environment: Mapping[str, str], *, programs: Path, model: Path, folder: Path
) -> AsyncGenerator[int]:
    """The peer for as long as the block lasts; gives the port that answers completions.

    Raises PeerFailed, with the end of its log, when it does not come up.
    """
    folder.mkdir(parents=True)
    commands = peer.commands(Site(programs, model, tuple(free_ports(3))))
    ports = [int(argv[argv.index("--port") + 1]) for argv in commands]
    processes: list[subprocess.Popen[bytes]] = []
    log = folder / "log.txt"
    try:
        try:
            async with asyncio.timeout(START_LIMIT_S):
                for argv, port in zip(commands, ports, strict=True):
                    processes.append(_start(argv, environment, folder, log))
                    await _until_listening(port, processes)
                await _until_answering(ports[-1], str(model), processes)
        except (OSError, PeerFailed) as error:  # a TimeoutError is an OSError
            reason = str(error) or f"did not answer within {START_LIMIT_S:.0f} s"
            raise PeerFailed(f"not started: {reason}; its log ends: {_last_line(log)}") from error
        yield ports[-1]
    finally:
        await asyncio.to_thread(stop, processes)


def end_on_sigterm() -> None:
    """The first SIGTERM cancels the run; a second one must not cut its cleaning up short."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)


def started_for(port: int) -> tuple[int, ...]:
    """Which of this process's children were told to listen on a port."""
    children = psutil.Process().children()
    return tuple(child.pid for child in children if str(port) in child.cmdline())


def cpu_s(pids: Sequence[int]) -> float:
    """User and system seconds that the processes have spent so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask all to end, the last started first; kill what is left, with what it started."""
    for process in reversed(processes):
        process.terminate()
    for process in reversed(processes):
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _start(
    argv: Argv, environment: Mapping[str, str], folder: Path, log: Path
) -> subprocess.Popen[bytes]:
    # A home of its own: some keep caches there that would answer the next run.
    own = {"HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **own, **environment},
            start_new_session=True,
        )


async def _until_listening(port: int, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    while True:
        _check_alive(processes)
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(POLL_S)
            continue
        writer.close()
        return


async def _until_answering(
    port: int, model: str, processes: Sequence[subprocess.Popen[bytes]]
) -> None:
    """Servers listen before they serve: only a whole answer counts.

    The prompt holds tokens that the bench model answers with text, see bench_model.write_model.
    """
    while True:
        _check_alive(processes)
        try:
            await complete(port, model, "a b c d", new_tokens=1)
        except (OSError, PeerFailed):
            await asyncio.sleep(POLL_S)
            continue
        return


def _check_alive(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is not None:
            raise PeerFailed(f"exited with code {process.returncode}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:200] if lines else "(empty)"
