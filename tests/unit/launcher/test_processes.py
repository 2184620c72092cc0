"""A restart goes on when its caller leaves, and no process outlives the launcher's stop."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_launcher.child import Child
from mlxmesh_launcher.processes import Processes
from mlxmesh_shared.host.log_file import LogFile
from mlxmesh_shared.registry import Instance
from tests.fakes.waiting import until

# On SIGTERM it drains until the file `drained` is there.
SERVICE = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def drain(*_):
    (folder / "draining").touch()
    while not (folder / "drained").exists():
        time.sleep(0.01)
    sys.exit()
signal.signal(signal.SIGTERM, drain)
(folder / "ready").touch()
time.sleep(600)
"""


class Commands:
    """Those of services with a fixed port, unless `overlap`."""

    overlap = False

    def can_overlap(self, name: str) -> bool:
        return self.overlap


class Rig:
    """The processes of a mesh with a model service; also their registry, where all are at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Child] = []
        stand_in: Any = self
        self.commands: Any = Commands()
        self.processes = Processes(
            ["model"], self.child, self.commands, stand_in, tls=False, stop_timeouts_s={"model": 30}
        )

    def child(self, name: str, takes_over: bool) -> Child:
        command = [sys.executable, "-c", SERVICE, str(self.folder)]
        self.started.append(
            Child(name=name, command=lambda: command, log=LogFile(self.folder / "log"))
        )
        return self.started[-1]

    async def watch(self, service: str) -> AsyncGenerator[Sequence[Instance]]:
        here = {"host": socket.gethostname()}
        for child in self.started:
            if child.pid is not None:
                yield [Instance(service, "one", "127.0.0.1:1", child.pid, here)]
        await asyncio.Event().wait()

    async def replace(self) -> None:
        async for _ in self.processes.replace("model"):
            pass

    async def leave_while_it_drains(self) -> None:
        """Begins a restart, and leaves it as the old process drains."""
        restarting = asyncio.create_task(self.replace())
        await until((self.folder / "draining").exists)
        restarting.cancel()
        await asyncio.gather(restarting, return_exceptions=True)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.processes.spawn()
    await rig.processes.until_serving(lambda _: None)
    rig.processes.keep_running()
    await until((tmp_path / "ready").exists)
    yield rig
    (tmp_path / "drained").touch()
    for child in rig.started:
        await child.stop(30)


async def test_a_service_that_is_restarted_is_back_though_the_caller_left(rig: Rig) -> None:
    [old] = rig.started
    await rig.leave_while_it_drains()
    (rig.folder / "drained").touch()
    await until(lambda: rig.processes.children["model"] is not old)
    await until(lambda: rig.processes.children["model"].pid is not None)
    assert old.pid is None


async def test_one_that_its_successor_listens_beside_leaves_though_the_caller_left(
    rig: Rig,
) -> None:
    rig.commands.overlap = True
    await rig.leave_while_it_drains()
    old, new = rig.started
    assert rig.processes.children["model"] is new
    (rig.folder / "drained").touch()
    await until(lambda: old.pid is None)
    assert new.pid is not None


async def test_a_restart_waits_for_one_whose_caller_left(rig: Rig) -> None:
    await rig.leave_while_it_drains()
    restarting = asyncio.create_task(rig.replace())
    await asyncio.sleep(0)
    (rig.folder / "drained").touch()
    await restarting
    assert len(rig.started) == 3
    assert [child.pid is not None for child in rig.started] == [False, False, True]


async def test_a_stop_during_a_restart_leaves_no_process(rig: Rig) -> None:
    await rig.leave_while_it_drains()
    (rig.folder / "drained").touch()
    await rig.processes.stop(lambda _: None)
    assert [child.pid for child in rig.started] == [None] * len(rig.started)
