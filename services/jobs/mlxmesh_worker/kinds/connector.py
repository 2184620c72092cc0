"""Jobs of the kind connector: work for a back end that is not part of the mesh."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, cast

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_worker.back_ends import BackEnds
from mlxmesh_worker.connectors.port import Made, Task
from mlxmesh_worker.convert import owner_metadata
from mlxmesh_worker.files import Files
from mlxmesh_worker.jobs_services import JobsServices
from mlxmesh_worker.kinds.convert import connector_result
from mlxmesh_worker.work import Assignment, Reports

_BACK_END, _STATE = "back_end", "state"


class ConnectorRunner:
    """Satisfies Runner."""

    def __init__(self, back_ends: BackEnds, services: JobsServices) -> None:
        self._back_ends = back_ends
        self._services = services

    async def run(self, assignment: Assignment, reports: Reports) -> Any:
        message = assignment.message
        work = message.connector
        remembered = _object(message.back_end_state_json, "back_end_state_json")
        back_end_name = str(remembered.get(_BACK_END, ""))
        acquired = self._back_ends.acquire(
            work.connector,
            prefer=back_end_name,
            on_wait=lambda: reports.progress(text="waits for a free back end"),
        )
        async with acquired as back_end:
            operation = work.operation or back_end.client.operations[0]
            arguments = _object(work.arguments_json, "arguments_json")
            back_end.client.check(operation, arguments)
            # Another back end knows nothing of what this one was asked to do.
            known = back_end.target.name == back_end_name
            task = Task(
                job_id=assignment.key.job_id,
                attempt=assignment.key.attempt,
                operation=operation,
                arguments=arguments,
                inputs=tuple(work.input_file_ids),
                state=remembered.get(_STATE, {}) if known else {},
            )
            told = ConnectorReports(
                reports,
                Files(self._services, assignment.key.job_id, owner_metadata(message.owner)),
                back_end=back_end.target.name,
                inputs=dict(work.input_file_ids),
            )
            outcome = await back_end.client.run(task, told)
        return connector_result(outcome)


class ConnectorReports:
    """Satisfies the port's Reports."""

    def __init__(
        self, reports: Reports, files: Files, *, back_end: str, inputs: Mapping[str, str]
    ) -> None:
        """inputs: ids of files, by the names that the work has for them."""
        self._reports = reports
        self._files = files
        self._back_end = back_end
        self._inputs = inputs

    @property
    def leaves_work(self) -> bool:
        return self._reports.stop is not None and not self._reports.stop.ends_work

    async def progress(
        self,
        *,
        fraction: float = 0.0,
        done: int = 0,
        total: int = 0,
        unit: str = "",
        text: str = "",
    ) -> None:
        self._reports.progress(fraction=fraction, done=done, total=total, unit=unit, text=text)

    async def remember(self, state: Mapping[str, Any]) -> None:
        await self._reports.remember(
            json.dumps({_BACK_END: self._back_end, _STATE: dict(state)}, separators=(",", ":"))
        )

    async def store(self, name: str, media_type: str, content: AsyncIterable[bytes]) -> Made:
        file = await self._files.store(name, media_type, content)
        return Made(
            file_id=file.file_id,
            name=file.name,
            media_type=file.media_type,
            size_bytes=file.size_bytes,
        )

    def read(self, name: str) -> AsyncIterator[bytes]:
        """Raises: InvalidArgument for a name that the work has no file for."""
        if name not in self._inputs:
            names = ", ".join(sorted(self._inputs)) or "none"
            raise InvalidArgument(
                f"the work has no input file {name}; it has {names}", field="input_file_ids"
            )
        return self._files.read(self._inputs[name])


def _object(text: str, field: str) -> dict[str, Any]:
    """Raises: InvalidArgument."""
    try:
        value: Any = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{field} must be a JSON object", field=field)
    return cast("dict[str, Any]", value)
