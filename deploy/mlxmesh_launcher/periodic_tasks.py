"""Periodic tasks of the launcher while a mesh runs; a failed run does not end a task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

from mlxmesh_launcher.record import RecordFile
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.host.log_file import LogFile

RENEWAL_CHECK_INTERVAL_S = 3600.0
RENEWAL_RETRY_S = 60.0
LOG_CHECK_INTERVAL_S = 5.0
DIRECTORY_CHECK_INTERVAL_S = 5.0

_log = logging.getLogger(__name__)


class PeriodicTasks:
    """Runs tasks periodically until `stop`."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def every(
        self,
        interval_s: float | Callable[[], float],
        what: str,
        work: Callable[[], object],
        *,
        retry_s: float = 0,
    ) -> None:
        """Runs `work` on a thread every `interval_s`; after a failure, in `retry_s` if given.

        An interval may be asked for each time.
        """
        task = _repeat(interval_s, what, work, retry_s)
        self._tasks.append(asyncio.create_task(task, name=what))

    async def stop(self) -> None:
        """Stops all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _repeat(
    interval_s: float | Callable[[], float], what: str, work: Callable[[], object], retry_s: float
) -> None:
    """Logs a failure when it begins, when its reason changes, and when it is over."""
    failure = ""
    while True:
        pause_s = interval_s() if callable(interval_s) else interval_s
        await asyncio.sleep(retry_s if failure and retry_s else pause_s)
        try:
            await asyncio.to_thread(work)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next turn may succeed
            if failure != (failure := str(error) or repr(error)):
                _log.error("%s failed, will be retried: %s", what, failure)
        else:
            if failure:
                failure = ""
                _log.info("%s works again", what)


def renew_certificates(
    tasks: PeriodicTasks,
    tls_dir: Path,
    *,
    lifetime_s: float = 0,
    on_renewal: Callable[[], None] = lambda: None,
) -> None:
    """Creates missing certificates now and renews them when due; processes reload them.

    `on_renewal` is called on a thread after some were renewed. A lifetime of 0 is the default.
    Raises: IllegalState when they cannot be written.
    """
    # Only a mesh with TLS needs the library behind it.
    from mlxmesh_launcher.authority import LIFETIME, ensure_certificates
    from mlxmesh_launcher.certificate_directory import until_due_s

    lifetime = timedelta(seconds=lifetime_s) or LIFETIME
    try:
        ensure_certificates(tls_dir, lifetime)
    except OSError as error:
        raise IllegalState(f"cannot make certificates in {tls_dir}: {error.strerror}") from None

    def renew() -> None:
        if ensure_certificates(tls_dir, lifetime):
            on_renewal()

    def interval_s() -> float:
        try:
            return renewal_pause_s(until_due_s(tls_dir, lifetime))
        except (OSError, IllegalState):
            return RENEWAL_RETRY_S  # `renew` says what is wrong

    retry_s = renewal_retry_s(lifetime.total_seconds())
    tasks.every(interval_s, "renewing certificates", renew, retry_s=retry_s)


def renewal_pause_s(until_due_s: float) -> float:
    """How long to wait before certificates are looked at again."""
    return min(max(until_due_s, 1.0), RENEWAL_CHECK_INTERVAL_S)


def renewal_retry_s(lifetime_s: float) -> float:
    """How long to wait after a renewal that failed."""
    return max(1.0, min(lifetime_s / 20, RENEWAL_RETRY_S))


def rotate_logs(tasks: PeriodicTasks, logs: Iterable[LogFile]) -> None:
    """Rotates logs that are too large; one that cannot be rotated leaves the others."""
    every = list(logs)

    def rotate() -> None:
        failures = list[str]()
        for log in every:
            try:
                log.rotate_if_large()
            except OSError as error:
                failures.append(f"{log.path}: {error}")
        if failures:
            raise IllegalState("; ".join(failures))

    tasks.every(LOG_CHECK_INTERVAL_S, "rotating logs", rotate)


def watch_directory(tasks: PeriodicTasks, record: RecordFile, log: LogFile) -> None:
    """Claims the data directory again after it was removed, and logs an error.

    `log` is the launcher's new log: its open one was removed with the directory.
    """
    lost = (
        "the data directory was removed while the mesh runs: catalogue, logs, certificates, models"
        " and settings in it are lost; what is loaded goes on until the mesh stops, so stop it with"
        " `mlxmesh down` and start it afresh"
    )

    def check() -> None:
        if record.reclaim():
            _log.error(lost)
            log.append(lost)

    tasks.every(DIRECTORY_CHECK_INTERVAL_S, "checking the data directory", check)
