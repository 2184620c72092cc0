"""An engine's process on a host whose disk is full."""

import asyncio
import errno
import sys
from pathlib import Path

from mlxmesh_runtime.engine_process import EngineProcess
from mlxmesh_runtime.spare_engine import SpareEngine
from mlxmesh_shared.host.log_file import LogFile
from tests.integration.runtime.harness import PATIENCE_S


class FullDisk(LogFile):
    """A log that cannot be written."""

    def append(self, line: str) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")


async def test_a_line_that_cannot_be_logged_does_not_hide_the_address(tmp_path: Path) -> None:
    program = "print('chatter', flush=True); print('{\"address\": \"127.0.0.1:1\"}', flush=True)"
    process = await EngineProcess.spawn(
        (sys.executable, "-c", program), FullDisk(tmp_path / "e.log"), SpareEngine(())
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait_for_address() == "127.0.0.1:1"
    finally:
        await process.stop(0)
