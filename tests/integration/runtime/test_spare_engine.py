"""A process in reserve is used once, replaced, and never outlives its owner."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from mlxmesh_runtime.spare_engine import SpareEngine
from tests.integration.runtime.harness import PATIENCE_S, until_gone

PROGRAM = (
    "import sys; from mlxmesh_shared.standby import STDERR, take_order\n"
    "if take_order(STDERR):\n"
    "    print(*sys.argv, flush=True); print('logged', file=sys.stderr, flush=True)"
)
LINE = (sys.executable, "-c", PROGRAM)
COMMAND = (sys.executable, "-m", "mlxmesh_engine", "--engine-id", "e1")


@asynccontextmanager
async def prepared(*line: str, refill_after_s: float = 600) -> AsyncIterator[SpareEngine]:
    spare = SpareEngine(line, refill_after_s=refill_after_s)
    await spare.prepare()
    try:
        yield spare
    finally:
        await spare.close()


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children()}


async def test_it_becomes_the_engine_that_is_asked_for(tmp_path: Path) -> None:
    async with prepared(*LINE) as spare:
        process = spare.take(COMMAND, tmp_path / "e1.log")
        assert process is not None
        out, _ = await process.communicate()
        assert out.decode() == "mlxmesh_engine --engine-id e1\n"
        assert (tmp_path / "e1.log").read_text() == "logged\n"
        assert spare.take(COMMAND, tmp_path / "e2.log") is None


async def test_another_is_prepared_later(tmp_path: Path) -> None:
    async with prepared(*LINE, refill_after_s=0.01) as spare:
        first = spare.take(COMMAND, tmp_path / "e1.log")
        assert first is not None
        await first.communicate()
        async with asyncio.timeout(PATIENCE_S):
            while not (second := spare.take(COMMAND, tmp_path / "e2.log")):
                await asyncio.sleep(0.02)
        assert second.pid != first.pid
        await second.communicate()


async def test_one_that_died_is_not_handed_out(tmp_path: Path) -> None:
    async with prepared(sys.executable, "-c", "pass") as spare:
        async with asyncio.timeout(PATIENCE_S):
            while any(psutil.pid_exists(pid) for pid in children()):
                await asyncio.sleep(0.02)
        assert spare.take(COMMAND, tmp_path / "e1.log") is None


async def test_a_program_that_is_not_there_only_means_no_spare(tmp_path: Path) -> None:
    async with prepared(str(tmp_path / "nothing")) as spare:
        assert spare.take(COMMAND, tmp_path / "e1.log") is None


async def test_close_ends_it() -> None:
    before = children()
    async with prepared(*LINE):
        (pid,) = children() - before
    await until_gone(pid)


async def test_without_a_command_line_there_is_none(tmp_path: Path) -> None:
    before = children()
    async with prepared() as spare:
        assert children() == before
        assert spare.take(COMMAND, tmp_path / "e1.log") is None
