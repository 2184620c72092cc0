"""Progress bars on standard error, so that standard output stays for the result."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)


@contextmanager
def bytes_bar(label: str, *, quiet: bool) -> Generator[Callable[[int, int], None]]:
    """A bar for a download; call the result with (bytes done, bytes in all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TransferSpeedColumn(), console=Console(stderr=True), disable=quiet
    ) as bar:
        task = bar.add_task(label, total=None)

        def advance(done_bytes: int, total_bytes: int) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes or None)

        with _gone_at_failure(bar):
            yield advance


@contextmanager
def steps_bar(label: str, *, total: int, quiet: bool) -> Generator[Callable[[int], None]]:
    """A bar for a few slow steps; call the result with the number that is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), disable=quiet
    ) as bar:
        task = bar.add_task(label, total=total)

        def advance(done: int) -> None:
            bar.update(task, completed=done)

        with _gone_at_failure(bar):
            yield advance


@contextmanager
def _gone_at_failure(bar: Progress) -> Generator[None]:
    """A bar that stands still above an error tells nobody anything."""
    try:
        yield
    except BaseException:
        bar.live.transient = True
        bar.live.stop()
        # Else the bar's own stop ends a line that was never written.
        bar.disable = True
        raise
