"""Connectors that break their worker, and how a process finds them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mlxmesh_worker.connectors.port import Outcome, Reports, Target, Task

_LONG_S = 3_600


class _Connector:
    """What they have in common."""

    operations: ClassVar[Sequence[str]] = ("run",)

    def __init__(self, target: Target) -> None:
        del target

    async def probe(self) -> None:
        """As Connector."""

    def check(self, operation: str, arguments: Mapping[str, Any]) -> None:
        """As Connector."""

    async def close(self) -> None:
        """As Connector."""


class Dying(_Connector):
    """Kills its worker with every attempt."""

    name: ClassVar[str] = "dying_http"

    async def run(self, task: Task, reports: Reports) -> Outcome:
        """As Connector."""
        os._exit(9)


class Hanging(_Connector):
    """Hangs with the first attempt, and does not let itself be stopped."""

    name: ClassVar[str] = "hanging_http"

    async def run(self, task: Task, reports: Reports) -> Outcome:
        """As Connector."""
        while task.attempt == 1:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(_LONG_S)
        return Outcome(result={"attempt": task.attempt})


class Blocking(_Connector):
    """Blocks its whole worker with the first attempt."""

    name: ClassVar[str] = "blocking_http"

    async def run(self, task: Task, reports: Reports) -> Outcome:
        """As Connector."""
        if task.attempt == 1:
            time.sleep(_LONG_S)  # noqa: ASYNC251
        return Outcome(result={"attempt": task.attempt})


CONNECTORS = (Dying, Hanging, Blocking)


def installed(folder: Path) -> dict[str, str]:
    """The environment of processes that find these connectors, as those of a package in folder."""
    package = folder / "chaos_connectors-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: chaos-connectors\nVersion: 1.0\n"
    )
    entries = [f"{each.name} = {each.__module__}:{each.__name__}" for each in CONNECTORS]
    (package / "entry_points.txt").write_text("\n".join(["[mlxmesh.connectors]", *entries, ""]))
    return {"PYTHONPATH": str(folder)}
