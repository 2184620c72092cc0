"""What a worker offers a connector, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxmesh_worker.connectors.port import Made, Task


@dataclass
class Told:
    """Progress that was reported."""

    fraction: float
    done: int
    total: int
    unit: str
    text: str


@dataclass
class FakeReports:
    """Keeps what a connector tells."""

    inputs: dict[str, bytes] = field(default_factory=dict[str, bytes])
    leaves_work: bool = False
    told: list[Told] = field(default_factory=list[Told])
    remembered: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """By their ids."""

    async def progress(
        self,
        *,
        fraction: float = 0.0,
        done: int = 0,
        total: int = 0,
        unit: str = "",
        text: str = "",
    ) -> None:
        self.told.append(Told(fraction, done, total, unit, text))

    async def remember(self, state: Mapping[str, Any]) -> None:
        self.remembered.append(dict(state))

    async def store(self, name: str, media_type: str, content: AsyncIterable[bytes]) -> Made:
        stored = b"".join([piece async for piece in content])
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = stored
        return Made(file_id=file_id, name=name, media_type=media_type, size_bytes=len(stored))

    async def read(self, name: str) -> AsyncIterator[bytes]:
        content = self.inputs[name]
        for start in range(0, len(content), 1024):
            yield content[start : start + 1024]

    def task(
        self, operation: str, arguments: Mapping[str, Any], *, attempt: int = 1, job: str = "job-1"
    ) -> Task:
        """An attempt that knows what earlier ones remembered here."""
        return Task(
            job_id=job,
            attempt=attempt,
            operation=operation,
            arguments=arguments,
            inputs=tuple(self.inputs),
            state=self.remembered[-1] if self.remembered else {},
        )
