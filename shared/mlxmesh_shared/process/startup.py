"""How a service process starts and how it learns that it should stop."""

import asyncio
import contextlib
import ctypes
import errno
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

from mlxmesh_shared.errors import IllegalState, MeshError
from mlxmesh_shared.host.disk import disk_error
from mlxmesh_shared.process.interrupt import end_at_interrupt
from mlxmesh_shared.rpc.grpc_threads import grpc_environment
from mlxmesh_shared.settings import SettingsError

MAX_DESCRIPTORS = 8192
EXIT_WITH_PARENT = "MLXMESH_EXIT_WITH_PARENT"


def child_environment() -> dict[str, str]:
    """The environment of a service process: ours, and that it ends with this process."""
    return {**grpc_environment(), **os.environ, EXIT_WITH_PARENT: "1"}


def run_service(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Runs a process's story; an expected error is one line on stderr and exit code 1."""
    raise_descriptor_limit()
    try:
        asyncio.run(main())
    except (MeshError, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except ExceptionGroup as group:
        if group.split((MeshError, SettingsError))[1] is not None:
            raise
        # The first is why the others were cancelled, or failed too.
        sys.stderr.write(f"{_first(group)}\n")
        return 1
    except OSError as error:
        known = disk_error(error)
        if known is None:
            raise
        sys.stderr.write(f"{known}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        end_at_interrupt()
    return 0


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error


def check_data_dir(data_dir: Path) -> None:
    """Makes the directory where it is missing. Raises: IllegalState when it cannot be used."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(data_dir, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it cannot be written to")
    except OSError as error:
        raise unusable_data_dir(data_dir, error) from None


def unusable_data_dir(data_dir: Path, error: OSError) -> IllegalState:
    """One line with the reason, and what to do."""
    return IllegalState(
        f"{data_dir} cannot be used as the data directory: {error.strerror}; choose another with"
        " --data-dir, or make it one that you may write to"
    )


def raise_descriptor_limit() -> int:
    """Lets this process have as many connections and files as it may, and returns how many these
    are; macOS begins with 256.
    """
    soft, hard = map(_number, resource.getrlimit(resource.RLIMIT_NOFILE))
    wanted = min(MAX_DESCRIPTORS, hard)
    if soft < wanted:
        # macOS may allow less than it says.
        with contextlib.suppress(OSError, ValueError):
            _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, limit))
            return wanted
    return soft


def _number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


async def wait_for_stop(leaving: asyncio.Event | None = None) -> None:
    """Returns on SIGTERM or SIGINT, at the end of stdin where MLXMESH_EXIT_WITH_PARENT is 1, or
    when the event is set, as ControlService's Drain does.

    A parent that holds the other end of stdin need do nothing to end its children: its death
    closes the pipe, however it died. Such a child leaves SIGINT to its parent, because Ctrl-C
    reaches a whole group of processes at once, and only the parent knows in which order to stop.
    """
    loop = asyncio.get_running_loop()
    stop = leaving or asyncio.Event()
    with_parent = os.environ.get(EXIT_WITH_PARENT) == "1"
    # The handlers stay: a second signal must not cut the drain short.
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, _nothing if with_parent else stop.set)
    if with_parent:
        call_at_end_of_stdin(lambda: _call_soon(loop, stop.set))
    await stop.wait()


def _nothing() -> None:
    pass


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    # The loop may have ended before the parent did.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


def call_at_end_of_stdin(callback: Callable[[], None]) -> None:
    """Calls it, on a thread of its own, once nobody holds the other end of stdin any more."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        callback()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def die_with_parent() -> None:
    """Asks the kernel to kill this process when its parent dies, where it can (Linux).

    Covers a process that is too busy or too frozen to see the end of its stdin. Meant for a child
    whose parent spawns from its main thread: Linux counts the spawning thread as the parent.
    """
    if sys.platform != "linux":
        return
    set_death_signal = 1
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(set_death_signal, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
