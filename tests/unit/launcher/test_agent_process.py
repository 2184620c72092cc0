"""A program that does not watch its standard input ends with the launcher, whatever it does."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import psutil
import pytest

from tests.fakes.waiting import until

# It says its process id, and ignores SIGTERM.
PROGRAM = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()}\\n")
time.sleep(600)
"""
KEEPER = """
import sys
from mlxmesh_launcher.hosts.agent_process import main
sys.exit(main([sys.executable, *sys.argv[1:]], grace_s=0.1))
"""


@pytest.mark.parametrize("how", [Process.terminate, lambda keeper: keeper.stdin.close()])
async def test_a_program_that_does_not_leave_is_killed(how, tmp_path: Path) -> None:
    says = tmp_path / "pid"
    keeper = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KEEPER, "-c", PROGRAM, str(says)), stdin=PIPE
    )
    try:
        await until(lambda: says.exists() and says.read_text().endswith("\n"))
        program = psutil.Process(int(says.read_text()))
        how(keeper)
        async with asyncio.timeout(30):
            assert await keeper.wait() == 128 + 9
        assert not program.is_running()
    finally:
        if keeper.returncode is None:
            keeper.kill()
        await keeper.wait()
        if says.exists() and psutil.pid_exists(int(says.read_text())):
            psutil.Process(int(says.read_text())).kill()
