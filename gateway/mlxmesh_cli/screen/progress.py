"""Progress bars on standard error; standard output is for results."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class StepsDone(Protocol):
    """Shows how many steps are done, and what is being done."""

    def __call__(self, done: int, now: str = "") -> None: ...


@contextmanager
def bytes_bar(label: str, *, quiet: bool) -> Generator[Callable[[int, int], None]]:
    """A bar for a download; call the result with (done bytes, total bytes)."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TransferSpeedColumn(), console=Console(stderr=True), disable=quiet
    ) as bar:
        task = bar.add_task(label, total=None)

        def advance(done_bytes: int, total_bytes: int) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes or None)

        with _removed_on_failure(bar):
            yield advance


@contextmanager
def steps_bar(label: str, *, total: int, quiet: bool) -> Generator[StepsDone]:
    """A bar for a few slow steps; call the result with the number of steps done, and with what is
    being done where that takes long.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), disable=quiet
    ) as bar:
        task = bar.add_task(label, total=total)

        def advance(done: int, now: str = "") -> None:
            bar.update(task, completed=done, description=f"{label}: {now}" if now else label)

        with _removed_on_failure(bar):
            yield advance


@contextmanager
def counting_bar(label: str, *, quiet: bool) -> Generator[Callable[[int, int], None]]:
    """A bar for many small parts; call the result with (done, total), 0 while it is not known."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), disable=quiet
    ) as bar:
        task = bar.add_task(label, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        with _removed_on_failure(bar):
            yield advance


@contextmanager
def _removed_on_failure(bar: Progress) -> Generator[None]:
    """Removes the bar on failure, so that only the error is shown."""
    try:
        yield
    except BaseException:
        bar.live.transient = True
        bar.live.stop()
        # Otherwise stopping the bar would print an empty line.
        bar.disable = True
        raise
