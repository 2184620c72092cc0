"""The tasks of one A1111: how far they are, and how to end them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from mlxmesh_shared.errors import InvalidArgument, MeshError
from mlxmesh_worker.connectors.http import HttpClient, text_of

_LONGEST_QUEUE_S = 3_600.0
_TIMEOUT_S = 5.0


class Tasks:
    """Tasks by their ids, which the web UI's own progress knows.

    /sdapi/v1/progress would not do: it tells the progress of whatever runs, and its current_task is
    null in every version. An A1111 with --nowebui has no /internal/progress: there, nothing is
    interrupted, since it could be somebody else's work.
    """

    def __init__(self, http: HttpClient, interval_s: float) -> None:
        self._http = http
        self._interval_s = interval_s
        self._ending: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Gives up on tasks that still wait for their end."""
        for ending in list(self._ending.values()):
            ending.cancel()
            with suppress(asyncio.CancelledError):
                await ending

    async def progress(self, task_id: str) -> tuple[float, str] | None:
        """The part that is done, and what happens; None if that is not known. Raises: MeshError."""
        state = await self._state(task_id)
        if state.get("active"):
            return float(state.get("progress") or 0.0), str(state.get("textinfo") or "running")
        return (0.0, "waits") if state.get("queued") else None

    async def end(self, task_id: str) -> None:
        """Interrupts a task that runs. One that waits cannot be removed: it is interrupted once it
        runs, later and without its caller. Raises: MeshError.
        """
        if await self._interrupted(task_id) or task_id in self._ending:
            return
        ending = asyncio.create_task(self._end_later(task_id))
        self._ending[task_id] = ending
        ending.add_done_callback(lambda _: self._ending.pop(task_id, None))

    async def _end_later(self, task_id: str) -> None:
        with suppress(MeshError, TimeoutError):
            async with asyncio.timeout(_LONGEST_QUEUE_S):
                while True:
                    await asyncio.sleep(self._interval_s)
                    if await self._interrupted(task_id):
                        return

    async def _interrupted(self, task_id: str) -> bool:
        """Interrupts it if it runs. Returns False while it still waits."""
        state = await self._state(task_id)
        if state.get("active"):
            await self._http.json("POST", "/sdapi/v1/interrupt", timeout_s=_TIMEOUT_S)
            return True
        return not state.get("queued")

    async def _state(self, task_id: str) -> Mapping[str, Any]:
        body = {"id_task": task_id, "id_live_preview": -1}
        try:
            answer = await self._http.json(
                "POST", "/internal/progress", body=body, timeout_s=_TIMEOUT_S
            )
        except InvalidArgument:
            return {}
        return cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}


def explained(error: object) -> str:
    """What A1111 says about an error: its `error` is only the name of the exception's type."""
    fields = cast("dict[str, object]", error) if isinstance(error, dict) else {}
    if text := text_of(fields.get("detail")):
        return text
    return ": ".join(str(fields[name]) for name in ("error", "errors") if fields.get(name))
