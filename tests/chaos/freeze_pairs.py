"""SIGSTOP of every kind of process in every phase of a mesh's life: what streams, commands and the
shutdown make of it. `python -m tests.chaos.freeze_pairs` prints a table; it takes half an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import psutil

from mlxmesh_client import MeshClient
from mlxmesh_launcher.record import read_record
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.process.startup import child_environment
from tests.chaos.mesh import SIMULATED

PROCESSES = ("gateway", "generation", "model", "runtime", "engine", "launcher")
STREAMS, TOKENS = 8, 200
BEFORE_S = 0.7
"""From the begin of a phase to the freeze."""
MAX_WAIT_S = 60.0
MAX_START_S = 240.0
MAX_DOWN_S = 200.0


class Frozen:
    """One mesh, and what was seen of it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.seen: list[str] = []
        self._folder = folder
        self._launcher: Process | None = None

    async def launch(self) -> Process:
        """Starts the mesh; two replicas, so that a frozen engine is not the only one."""
        with (self._folder / "launcher.out").open("wb") as log:
            self._launcher = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mlxmesh_launcher", "--data-dir", str(self._folder),
                "--grpc-port", "0", "--http-port", "0", "--replicas", "2",
                stdin=PIPE, stdout=log, stderr=log, start_new_session=True,
                env={**child_environment(), **SIMULATED},
            )  # fmt: skip
        return self._launcher

    async def until_serving(self) -> str:
        """The gateway's address, once everything serves."""
        async with asyncio.timeout(MAX_START_S):
            while not (record := read_record(self._folder)) or not record.gateway:
                await asyncio.sleep(0.1)
        return record.gateway

    def pid(self) -> int | None:
        """The process to freeze, once there is one; of engines the newest."""
        assert self._launcher is not None
        if self.name == "launcher":
            return self._launcher.pid
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self._launcher.pid).children(recursive=True)
            found = [one.pid for one in family if f"mlxmesh_{self.name}" in " ".join(one.cmdline())]
            return max(found, default=None)
        return None

    async def freeze(self) -> None:
        """Stops the process where it stands, as soon as there is one."""
        async with asyncio.timeout(MAX_START_S):
            while (pid := self.pid()) is None:
                await asyncio.sleep(0.02)
        psutil.Process(pid).suspend()

    async def command(self, *words: str, limit_s: float = MAX_WAIT_S) -> str:
        """How a command ends, and after how long."""
        started_s = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mlxmesh_cli", *words, "--data-dir", str(self._folder),
            stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(limit_s):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return f"`{words[0]}` no end within {limit_s:.0f} s"
        text = output.decode(errors="replace").strip()
        if words[0] == "status":
            text = _not_serving(text)
        took = f"{time.monotonic() - started_s:.1f} s"
        return f"`{words[0]}` {took}, exit {process.returncode}: {text[-160:]}"

    async def close(self) -> None:
        """Kills what is left."""
        if self._launcher is None:
            return
        with contextlib.suppress(psutil.Error):
            for one in psutil.Process(self._launcher.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    one.kill()
        with contextlib.suppress(ProcessLookupError):
            self._launcher.kill()
        await self._launcher.wait()


def _not_serving(text: str) -> str:
    """What `status --json` says of those that do not serve."""
    try:
        state = json.loads(text)
    except ValueError:
        return text
    rows = [(one["service"], one["state"]) for one in state.get("instances", ())]
    away = [f"{name} {state}" for name, state in rows if state != "serving"]
    said = state.get("problems") or state.get("error") or []
    return f"{', '.join(away) or 'all serve'} {said or ''} models: {len(state.get('models', ()))}"


async def _stream(address: str, number: int) -> str:
    """How one stream ends."""
    tokens = 0
    try:
        async with asyncio.timeout(MAX_WAIT_S), MeshClient(address) as client:
            options = {"prompt": f"A{number}", "max_tokens": TOKENS, "ignore_eos": True}
            async for event in client.generate("pocket", timeout_s=MAX_WAIT_S, **options):  # type: ignore[arg-type]
                tokens += len(getattr(event, "token_ids", ()))
    except TimeoutError:
        return "hung"
    except MeshError as error:
        return error.reason
    return "whole"


async def _streams(address: str) -> str:
    started_s = time.monotonic()
    ends = await asyncio.gather(*(_stream(address, number) for number in range(STREAMS)))
    counts = ", ".join(f"{ends.count(end)} {end}" for end in sorted(set(ends)))
    return f"streams {counts} ({time.monotonic() - started_s:.0f} s)"


async def starting(mesh: Frozen) -> None:
    """While the mesh starts."""
    started_s = time.monotonic()
    launcher = await mesh.launch()
    await mesh.freeze()
    mesh.seen.append(await mesh.command("status", "--json"))
    serving = asyncio.create_task(mesh.until_serving())
    ended = asyncio.create_task(launcher.wait())
    await asyncio.wait((serving, ended), timeout=MAX_START_S, return_when=asyncio.FIRST_COMPLETED)
    how = "ended" if ended.done() else "serves" if serving.done() else "neither serves nor ended"
    mesh.seen.append(f"launcher {how} after {time.monotonic() - started_s:.0f} s")
    for task in (serving, ended):
        task.cancel()
    await asyncio.gather(serving, ended, return_exceptions=True)


async def loading(mesh: Frozen) -> None:
    """While further replicas load."""
    await mesh.launch()
    await mesh.until_serving()
    load = asyncio.create_task(mesh.command("load", "pocket", "--replicas", "4"))
    await asyncio.sleep(BEFORE_S)
    await mesh.freeze()
    mesh.seen += [await mesh.command("status", "--json"), await load]


async def serving(mesh: Frozen) -> None:
    """Under streams."""
    await mesh.launch()
    streams = asyncio.create_task(_streams(await mesh.until_serving()))
    await asyncio.sleep(BEFORE_S)
    await mesh.freeze()
    mesh.seen += [await mesh.command("status", "--json"), await streams]


async def draining(mesh: Frozen) -> None:
    """While the process is replaced under streams; with the launcher, which does it, generation."""
    await mesh.launch()
    streams = asyncio.create_task(_streams(await mesh.until_serving()))
    await asyncio.sleep(BEFORE_S)
    kind = {"launcher": "generation", "engine": "runtime"}.get(mesh.name, mesh.name)
    old = mesh.pid()
    restart = asyncio.create_task(mesh.command("restart", kind, "--json"))
    await asyncio.sleep(2 * BEFORE_S)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(old).suspend()
    mesh.seen += [await mesh.command("status", "--json"), await streams, await restart]


async def stopping(mesh: Frozen) -> None:
    """While the mesh stops, with streams that may finish."""
    await mesh.launch()
    streams = asyncio.create_task(_streams(await mesh.until_serving()))
    await asyncio.sleep(BEFORE_S)
    down = asyncio.create_task(mesh.command("down", limit_s=MAX_DOWN_S))
    await asyncio.sleep(2 * BEFORE_S)
    await mesh.freeze()
    mesh.seen += [await streams, await down]


PHASES: tuple[Callable[[Frozen], Awaitable[None]], ...] = (
    starting, loading, serving, draining, stopping,
)  # fmt: skip


@contextlib.asynccontextmanager
async def _mesh(name: str) -> AsyncGenerator[Frozen]:
    with tempfile.TemporaryDirectory(prefix="mlxmesh-freeze-", ignore_cleanup_errors=True) as path:
        mesh = Frozen(Path(path), name)
        try:
            yield mesh
        finally:
            await mesh.close()


async def _pair(
    name: str, phase: Callable[[Frozen], Awaitable[None]], room: asyncio.Semaphore
) -> None:
    async with room, _mesh(name) as mesh:
        try:
            await phase(mesh)
            if phase is not stopping:
                mesh.seen.append(await mesh.command("down", limit_s=MAX_DOWN_S))
        except (TimeoutError, psutil.Error) as error:
            mesh.seen.append(f"not played: {type(error).__name__}")
        print(f"| {name} | {phase.__name__} | {'; '.join(mesh.seen)} |", flush=True)


async def main() -> None:
    """Plays the pairs that are asked for, a few at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--process", action="append", choices=PROCESSES)
    parser.add_argument("--phase", action="append", choices=[one.__name__ for one in PHASES])
    parser.add_argument("--at-once", type=int, default=1)
    asked = parser.parse_args()
    room = asyncio.Semaphore(asked.at_once)
    phases = [one for one in PHASES if not asked.phase or one.__name__ in asked.phase]
    names = asked.process or PROCESSES
    await asyncio.gather(*(_pair(name, phase, room) for phase in phases for name in names))


if __name__ == "__main__":
    asyncio.run(main())
