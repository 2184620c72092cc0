"""Waits for changes of a folder of records: by events of the kernel, else by polling."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Set
from pathlib import Path

from mlxmesh_shared.host.folder_events import FolderEvents, OnEvent, open_folder_events

_log = logging.getLogger(__name__)

POLL_S = 2.0
"""The interval of polling where a folder has no events, or cannot be read."""
MAX_WAIT_S = 30.0
"""After this time the folder is read in any case: it may be another one by now."""
# Changes that follow each other closely are read once.
_GATHER_S = 0.02

OpenEvents = Callable[[Path, OnEvent], FolderEvents]


class RecordChanges:
    """Opened before the first read, so that no change is missed; the caller closes it."""

    def __init__(
        self, folder: Path, *, poll_s: float = POLL_S, open_: OpenEvents = open_folder_events
    ) -> None:
        self._folder = folder
        self._poll_s = poll_s
        self._open = open_
        self._changed = asyncio.Event()
        self._events: FolderEvents | None = None
        self._watched: tuple[int, int] | None = None
        self._works = False
        self._renew()

    async def wait(self, pids: Set[int], within_s: float) -> None:
        """Returns after a change, after the end of one of the processes, and in time.

        Where the folder has no events, "in time" is at most the poll interval.
        """
        self._renew()
        if not self._follow(pids):
            within_s = min(within_s, self._poll_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(within_s, MAX_WAIT_S)):
                await self._changed.wait()
                await asyncio.sleep(_GATHER_S)
        self._changed.clear()

    def close(self) -> None:
        """Releases the descriptors."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _on_event(self) -> None:
        self._works = True
        self._changed.set()

    def _follow(self, pids: Set[int]) -> bool:
        """Whether the kernel reports both changes and the ends of the processes."""
        if self._events is None or not self._works:
            return False
        try:
            self._events.follow_processes(pids)
        except OSError as error:
            _log.warning("watching the processes of %s by polling: %s", self._folder, error)
            return False
        return True

    def _renew(self) -> None:
        """Opens the events, and again after the folder was replaced by another one."""
        identity = _identity(self._folder)
        if identity == self._watched:
            return
        self.close()
        self._watched, self._works = identity, False
        if identity is None:
            return
        try:
            self._events = self._open(self._folder, self._on_event)
        except OSError as error:
            _log.warning("watching %s by polling: %s", self._folder, error)
        else:
            _cause_event(self._folder)


def _cause_event(folder: Path) -> None:
    """Shows whether events arrive: some file systems accept a watch and report nothing."""
    probe = folder / f".{os.getpid()}.probe"
    with contextlib.suppress(OSError):
        probe.touch()
        probe.unlink(missing_ok=True)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
