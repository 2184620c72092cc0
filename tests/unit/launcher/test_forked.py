"""A forked service behaves as one that was started by its command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlxmesh_shared.process.forked import can_fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there services are forked")

SERVICE = """
import asyncio, os, sys

async def main() -> None:
    if "fail" in sys.argv:
        raise RuntimeError("it failed")
    grandchild = os.getsid(0) == os.getpid()
    print(sys.argv[1:], grandchild, os.environ["MLXMESH_EXIT_WITH_PARENT"], flush=True)
    await asyncio.to_thread(sys.stdin.read) if "wait" in sys.argv else None
"""

# Forks, because the process of the tests has threads, are made by one that has not.
LAUNCHER = """
import asyncio, sys
from pathlib import Path
from mlxmesh_launcher.child import Child
from mlxmesh_launcher.forked import run_when_ordered
from mlxmesh_shared.host.log_file import LogFile
from mlxmesh_shared.process.forked import ForkedProcess

first, second = (
    ForkedProcess.fork(lambda: run_when_ordered("mlxmesh_fake"), "fake", pipe_stdout=False)
    for _ in range(2)
)

async def main() -> None:
    command = [sys.executable, "-m", "mlxmesh_fake", *sys.argv[2:]]
    log = LogFile(Path(sys.argv[1]))
    child = Child(name="fake", command=lambda: command, log=log, forked=first)
    await child.spawn()
    assert child.pid == first.pid
    {then}

asyncio.run(main())
"""


def launch(tmp_path: Path, then: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    package = tmp_path / "mlxmesh_fake"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SERVICE)
    return subprocess.run(
        [sys.executable, "-c", LAUNCHER.format(then=then), str(tmp_path / "log"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_gets_arguments_log_session_and_environment(tmp_path: Path) -> None:
    result = launch(tmp_path, "print(await first.wait())", "--flag")
    assert (result.stdout, result.stderr) == ("0\n", "")
    assert (tmp_path / "log").read_text() == "['--flag'] True 1\n"


def test_a_failure_is_in_its_log_and_its_exit_code(tmp_path: Path) -> None:
    result = launch(tmp_path, "print(await first.wait())", "fail")
    assert (result.stdout, result.stderr) == ("1\n", "")
    assert (tmp_path / "log").read_text().endswith("RuntimeError: it failed\n")


def test_it_can_be_killed_and_several_may_wait_for_that(tmp_path: Path) -> None:
    result = launch(
        tmp_path, "first.kill(); print(await asyncio.gather(first.wait(), first.wait()))", "wait"
    )
    assert result.stdout == "[-9, -9]\n", result.stderr


def test_all_end_with_their_launcher_also_by_kill_9(tmp_path: Path) -> None:
    """The output is read to its end, which is there when no process holds it open any more."""
    result = launch(tmp_path, "import os; os.kill(os.getpid(), 9)", "wait")
    assert result.returncode == -9


def test_other_platforms_start_every_service_by_itself() -> None:
    assert not can_fork("darwin")
