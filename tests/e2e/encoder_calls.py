"""What tests of embeddings through a mesh share."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from tests.e2e.running_mesh import RunningMesh


def cosine(one: Any, other: Any) -> float:
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


def raise_failures(tasks: list[asyncio.Task[None]]) -> None:
    """Raises the error of a call that failed."""
    for task in tasks:
        if task.done():
            task.result()


def engine_of(mesh: RunningMesh, model: str) -> int:
    """The process id of the engine of a model."""
    rows = mesh.status()["instances"]
    (row,) = [row for row in rows if row["service"] == "engine" and row["model"] == model]
    return row["pid"]
