"""How a service process starts, and how it is asked to stop."""

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
from mlxmesh_shared.process.interrupt import exit_on_interrupt
from mlxmesh_shared.rpc.grpc_threads import grpc_environment
from mlxmesh_shared.settings import SettingsError

MAX_DESCRIPTORS = 8192
EXIT_WITH_PARENT = "MLXMESH_EXIT_WITH_PARENT"
API_KEY = "MLXMESH_API_KEY"


def own_environment() -> dict[str, str]:
    """This process's environment, without the key of the person who started it."""
    return {name: value for name, value in os.environ.items() if name != API_KEY}


def child_environment() -> dict[str, str]:
    """The environment for a child service process, which ends with this process."""
    return {**grpc_environment(), **own_environment(), EXIT_WITH_PARENT: "1"}


def run_service(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Runs a process and returns its exit code; an expected error is one line on stderr and 1."""
    raise_descriptor_limit()
    try:
        asyncio.run(main())
    except (MeshError, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except ExceptionGroup as group:
        if group.split((MeshError, SettingsError))[1] is not None:
            raise
        # The first error caused the others.
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
        exit_on_interrupt()
    return 0


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error


def check_data_dir(data_dir: Path) -> None:
    """Creates the directory if it is missing. Raises: IllegalState when it cannot be used."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(data_dir, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it cannot be written to")
    except OSError as error:
        raise unusable_data_dir(data_dir, error) from None


def unusable_data_dir(data_dir: Path, error: OSError) -> IllegalState:
    """The error for it, with the reason and what to do."""
    return IllegalState(
        f"{data_dir} cannot be used as the data directory: {error.strerror}; choose another with"
        " --data-dir, or make it one that you may write to"
    )


def raise_descriptor_limit() -> int:
    """Raises the limit of open files and connections as far as it is allowed and needed, and
    returns it; macOS starts with 256.
    """
    soft, hard = map(_number, resource.getrlimit(resource.RLIMIT_NOFILE))
    wanted = min(MAX_DESCRIPTORS, hard)
    if soft < wanted:
        # macOS may allow less than its hard limit.
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

    The death of a parent that has the other end of stdin closes the pipe, so that its children end
    however it died. Such a child ignores SIGINT: Ctrl-C reaches the whole process group at once,
    and only the parent knows in which order to stop.
    """
    loop = asyncio.get_running_loop()
    stop = leaving or asyncio.Event()
    with_parent = os.environ.get(EXIT_WITH_PARENT) == "1"
    # The handlers stay installed: a second signal must not interrupt the drain.
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, _nothing if with_parent else stop.set)
    if with_parent:
        call_at_end_of_stdin(lambda: _call_soon(loop, stop.set))
    await stop.wait()


def _nothing() -> None:
    pass


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    # The loop may have closed before the parent died.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


def call_at_end_of_stdin(callback: Callable[[], None]) -> None:
    """Calls it on a thread of its own after the other end of stdin was closed."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        callback()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def die_with_parent() -> None:
    """Asks the kernel to kill this process when its parent dies; does nothing except on Linux.

    Covers a process that is too busy or frozen to read the end of its stdin. For a child whose
    parent spawns it from its main thread: to Linux the spawning thread is the parent.
    """
    if sys.platform != "linux":
        return
    set_death_signal = 1
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(set_death_signal, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
