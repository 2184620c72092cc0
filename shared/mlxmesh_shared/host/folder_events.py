"""Events of the kernel: changed entries of a folder, and ended processes, without polling.

Linux reports them by inotify and pidfd, macOS by kqueue. Each watch is a descriptor of the event
loop: it needs no thread and no timer, so that nothing wakes while nothing happens.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Set
from pathlib import Path
from typing import Protocol

OnEvent = Callable[[], None]


class FolderEvents(Protocol):
    """Calls `on_event` on the event loop, until closed."""

    def follow_processes(self, pids: Set[int]) -> None:
        """Reports the end of each of these processes, and no longer that of others.

        Raises: OSError if the kernel cannot, for example without free descriptors.
        """
        ...

    def close(self) -> None:
        """Releases the descriptors."""
        ...


if sys.platform == "linux":
    from asyncinotify import Inotify, Mask

    # Not ATTRIB: renewing a lease changes only the time of a file.
    _ENTRIES = Mask.CREATE | Mask.CLOSE_WRITE | Mask.MOVE | Mask.DELETE
    _FOLDER = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR

    class InotifyEvents:
        """Satisfies FolderEvents on Linux."""

        def __init__(self, folder: Path, on_event: OnEvent) -> None:
            """Raises: OSError."""
            self._loop = asyncio.get_running_loop()
            self._on_event = on_event
            self._processes: dict[int, int] = {}
            self._inotify = Inotify(sync_timeout=0)
            try:
                self._inotify.add_watch(  # pyright: ignore[reportUnknownMemberType]
                    folder, _ENTRIES | _FOLDER
                )
            except BaseException:
                self._inotify.close()
                raise
            self._loop.add_reader(self._inotify.fd, self._read)

        def follow_processes(self, pids: Set[int]) -> None:
            for pid in self._processes.keys() - pids:
                self._forget(pid)
            for pid in pids - self._processes.keys():
                try:
                    self._processes[pid] = os.pidfd_open(pid)
                except ProcessLookupError:
                    self._on_event()
                else:
                    self._loop.add_reader(self._processes[pid], self._ended, pid)

        def close(self) -> None:
            for pid in list(self._processes):
                self._forget(pid)
            self._loop.remove_reader(self._inotify.fd)
            self._inotify.close()

        def _read(self) -> None:
            changed = False
            while (event := self._inotify.sync_get()) is not None:
                changed = changed or event.name is None or event.name.suffix != ".draft"
            if changed:
                self._on_event()

        def _ended(self, pid: int) -> None:
            self._forget(pid)
            self._on_event()

        def _forget(self, pid: int) -> None:
            descriptor = self._processes.pop(pid)
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def open_folder_events(folder: Path, on_event: OnEvent) -> FolderEvents:
        """Raises: OSError if the kernel has no events for the folder, or none are left."""
        return InotifyEvents(folder, on_event)

else:
    import errno
    import select

    class KqueueEvents:
        """Satisfies FolderEvents on macOS and BSD."""

        def __init__(self, folder: Path, on_event: OnEvent) -> None:
            """Raises: OSError."""
            self._loop = asyncio.get_running_loop()
            self._on_event = on_event
            self._pids: set[int] = set()
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            self._queue = select.kqueue()
            changes = select.KQ_NOTE_WRITE | select.KQ_NOTE_DELETE | select.KQ_NOTE_RENAME
            flags = select.KQ_EV_ADD | select.KQ_EV_CLEAR
            self._add(select.kevent(self._folder, select.KQ_FILTER_VNODE, flags, changes))
            self._loop.add_reader(self._queue.fileno(), self._read)

        def follow_processes(self, pids: Set[int]) -> None:
            # A process that is no longer followed ends unnoticed or is reported once too often.
            self._pids &= pids
            for pid in pids - self._pids:
                flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
                ends = select.kevent(pid, select.KQ_FILTER_PROC, flags, select.KQ_NOTE_EXIT)
                try:
                    self._add(ends)
                except OSError as error:
                    if error.errno != errno.ESRCH:
                        raise
                    self._on_event()
                else:
                    self._pids.add(pid)

        def close(self) -> None:
            self._loop.remove_reader(self._queue.fileno())
            self._queue.close()
            os.close(self._folder)

        def _add(self, event: select.kevent) -> None:
            self._queue.control([event], 0)

        def _read(self) -> None:
            for event in self._queue.control(None, 64, 0):
                if event.filter == select.KQ_FILTER_PROC:
                    self._pids.discard(event.ident)
            self._on_event()

    def open_folder_events(folder: Path, on_event: OnEvent) -> FolderEvents:
        """Raises: OSError if the kernel has no events for the folder, or none are left."""
        return KqueueEvents(folder, on_event)
