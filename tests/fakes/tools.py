"""Programs that are not Python: `make tools` puts them where these tests find them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

TOOLS = Path.home() / ".cache" / "mlxmesh" / "tools"
START_TIMEOUT_S = 60.0


def tool(name: str) -> str:
    """The program's path; without it the test fails, because CI must have it."""
    found = shutil.which(name, path=f"{TOOLS}:{os.environ['PATH']}")
    if found is None:
        pytest.fail(f"{name} is missing: run `make tools`")
    return found


@asynccontextmanager
async def running_tool(command: list[str], port: int, log: Path) -> AsyncGenerator[None]:
    """A program that listens on the port; killed in the end."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:
        await _listening(process, port, log)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listening(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            if process.returncode is not None:
                pytest.fail(f"it ended at once: {log.read_text()[-2000:]}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
