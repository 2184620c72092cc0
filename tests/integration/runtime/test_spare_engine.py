"""A spare process is used once, replaced, and never outlives its owner."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from mlxmesh_runtime.spare_engine import SpareEngine
from mlxmesh_shared.process.forked import ForkedProcess
from tests.integration.runtime.harness import PATIENCE_S, until_gone

PROGRAM = (
    "import sys; from mlxmesh_shared.process.standby import STDERR, receive_command\n"
    "if receive_command(STDERR):\n"
    "    print(*sys.argv, flush=True); print('logged', file=sys.stderr, flush=True)"
)
LINE = (sys.executable, "-c", PROGRAM)
COMMAND = (sys.executable, "-m", "mlxmesh_engine", "--engine-id", "e1")


@asynccontextmanager
async def prepared(*line: str, refill_after_s: float = 600) -> AsyncIterator[SpareEngine]:
    spare = SpareEngine(line, refill_after_s=refill_after_s)
    await spare.start()
    try:
        yield spare
    finally:
        await spare.close()


async def output_of(process: Process | ForkedProcess) -> str:
    # None of these command lines names a module, so none of them is forked.
    assert isinstance(process, Process)
    out, _ = await process.communicate()
    return out.decode()


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children()}


async def test_it_becomes_the_requested_engine(tmp_path: Path) -> None:
    async with prepared(*LINE) as spare:
        process = spare.acquire(COMMAND, tmp_path / "e1.log")
        assert process is not None
        assert await output_of(process) == "mlxmesh_engine --engine-id e1\n"
        assert (tmp_path / "e1.log").read_text() == "logged\n"
        assert spare.acquire(COMMAND, tmp_path / "e2.log") is None


async def test_another_spare_is_started_later(tmp_path: Path) -> None:
    async with prepared(*LINE, refill_after_s=0.01) as spare:
        first = spare.acquire(COMMAND, tmp_path / "e1.log")
        assert first is not None
        await output_of(first)
        async with asyncio.timeout(PATIENCE_S):
            while not (second := spare.acquire(COMMAND, tmp_path / "e2.log")):
                await asyncio.sleep(0.02)
        assert second.pid != first.pid
        await output_of(second)


async def test_a_spare_that_died_is_not_used(tmp_path: Path) -> None:
    async with prepared(sys.executable, "-c", "pass") as spare:
        async with asyncio.timeout(PATIENCE_S):
            while spare._process is None or spare._process.returncode is None:
                await asyncio.sleep(0.01)
        assert spare.acquire(COMMAND, tmp_path / "e1.log") is None


async def test_a_missing_program_only_means_no_spare(tmp_path: Path) -> None:
    async with prepared(str(tmp_path / "nothing")) as spare:
        assert spare.acquire(COMMAND, tmp_path / "e1.log") is None


async def test_close_ends_it() -> None:
    before = children()
    async with prepared(*LINE):
        (pid,) = children() - before
    await until_gone(pid)


async def test_without_a_command_line_there_is_none(tmp_path: Path) -> None:
    before = children()
    async with prepared() as spare:
        assert children() == before
        assert spare.acquire(COMMAND, tmp_path / "e1.log") is None
