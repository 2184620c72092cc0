"""A folder's watch: it wakes for changes and ended processes, and for nothing else."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Set
from pathlib import Path

import pytest

from mlxmesh_shared.host.folder_events import FolderEvents, OnEvent
from mlxmesh_shared.registry.record_changes import RecordChanges

NEVER_S = 3600.0


@pytest.fixture
async def changes(tmp_path: Path) -> AsyncIterator[RecordChanges]:
    subject = RecordChanges(tmp_path, poll_s=NEVER_S)
    # The probe that shows that events arrive.
    await asyncio.wait_for(subject.wait(set(), NEVER_S), 30)
    yield subject
    subject.close()


def write(folder: Path, name: str) -> None:
    draft = folder / f".{name}.draft"
    draft.write_text("{}")
    draft.replace(folder / name)


async def waiting(changes: RecordChanges, pids: Set[int] = frozenset()) -> asyncio.Task[None]:
    task = asyncio.create_task(changes.wait(pids, NEVER_S))
    await asyncio.sleep(0.3)
    assert not task.done()
    return task


async def test_a_new_a_changed_and_a_removed_record_are_seen(
    changes: RecordChanges, tmp_path: Path
) -> None:
    for change in (
        lambda: write(tmp_path, "a.json"),
        lambda: write(tmp_path, "a.json"),
        (tmp_path / "a.json").unlink,
    ):
        wait = await waiting(changes)
        change()
        await asyncio.wait_for(wait, 30)


async def test_a_renewed_lease_wakes_nobody(changes: RecordChanges, tmp_path: Path) -> None:
    write(tmp_path, "a.json")
    await asyncio.wait_for(changes.wait(set(), NEVER_S), 30)
    wait = await waiting(changes)
    os.utime(tmp_path / "a.json")
    (tmp_path / ".a.json.draft").touch()
    await asyncio.sleep(0.3)
    assert not wait.done()
    wait.cancel()


async def test_the_end_of_a_process_is_seen_although_nobody_reaps_it(
    changes: RecordChanges,
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # noqa: ASYNC220
    try:
        wait = await waiting(changes, {child.pid})
        child.kill()
        await asyncio.wait_for(wait, 30)
        wait = asyncio.create_task(changes.wait({child.pid}, NEVER_S))
        await asyncio.wait_for(wait, 30)
    finally:
        child.kill()
        child.communicate()


async def test_a_process_that_is_gone_already_is_reported(changes: RecordChanges) -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
    await child.wait()
    await asyncio.wait_for(changes.wait({child.pid}, NEVER_S), 30)


async def test_a_folder_that_was_replaced_is_watched_again(
    changes: RecordChanges, tmp_path: Path
) -> None:
    wait = await waiting(changes)
    tmp_path.rename(tmp_path.with_name("aside"))
    await asyncio.wait_for(wait, 30)
    tmp_path.mkdir()
    await asyncio.wait_for(changes.wait(set(), NEVER_S), 30)
    wait = await waiting(changes)
    write(tmp_path, "a.json")
    await asyncio.wait_for(wait, 30)


class Mute:
    """Events of a file system that reports none."""

    def __init__(self, _folder: Path, _on_event: OnEvent) -> None: ...

    def follow_processes(self, pids: Set[int]) -> None: ...

    def close(self) -> None: ...


class Exhausted(Mute):
    """No descriptor is left for a process."""

    def __init__(self, folder: Path, on_event: OnEvent) -> None:
        super().__init__(folder, on_event)
        on_event()

    def follow_processes(self, pids: Set[int]) -> None:
        raise OSError(24, "too many open files")


def refuses(_folder: Path, _on_event: OnEvent) -> FolderEvents:
    raise OSError(28, "no inotify watch is left")


@pytest.mark.parametrize("events", [Mute, Exhausted, refuses])
async def test_without_events_it_polls(events, tmp_path: Path) -> None:
    changes = RecordChanges(tmp_path, poll_s=0.05, open_=events)
    for _ in range(3):
        await asyncio.wait_for(changes.wait(set(), NEVER_S), 30)
    changes.close()


async def test_with_events_it_waits_as_long_as_it_may(
    changes: RecordChanges, tmp_path: Path
) -> None:
    started_s = time.monotonic()
    await changes.wait(set(), 0.3)
    assert time.monotonic() - started_s >= 0.25
