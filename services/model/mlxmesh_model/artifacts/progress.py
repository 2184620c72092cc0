"""Runs a pull or an import in a task: reports its progress and explains its errors."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlxmesh_model.catalogue.models import Version
from mlxmesh_shared.errors import Cancelled, Internal, MeshError, ServiceUnavailable
from mlxmesh_shared.host.disk import disk_error

_INTERVAL_S = 0.1


@dataclass(slots=True)
class Progress:
    """Bytes and present file of a download or conversion; written by it, read by its caller."""

    done_bytes: int = 0
    total_bytes: int = 0
    file: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """The progress at one moment; `version` is set in the last step."""

    name: str
    progress: Progress
    version: Version | None = None


async def report(
    name: str, work: Coroutine[Any, Any, Version], progress: Progress
) -> AsyncGenerator[Step]:
    """Runs the work and yields its progress at most ten times a second, then its result.

    Closing the generator cancels the work and waits for its end. Raises: what the work raises.
    """
    task = asyncio.create_task(work)
    try:
        last: Progress | None = None
        while not task.done():
            if progress.total_bytes and progress != last:
                last = replace(progress)
                yield Step(name, last)
            await asyncio.wait({task}, timeout=_INTERVAL_S)
        yield Step(name, progress, task.result())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def failure_of(error: BaseException, models_dir: Path) -> MeshError:
    """The error to report for any exception that ended a pull or an import."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return interrupted()
    if isinstance(error, OSError):
        return disk_error(error, models_dir) or ServiceUnavailable(
            f"the model cannot be written ({error.strerror}); check the disk under {models_dir},"
            " then try again"
        )
    return Internal("the pull failed; see the log of the model service")


def interrupted() -> MeshError:
    """The error of a pull or an import that was cancelled."""
    return Cancelled("the pull was interrupted; pull again to continue it")
