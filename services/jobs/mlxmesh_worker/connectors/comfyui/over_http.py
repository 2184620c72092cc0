"""ComfyUI by HTTP alone: asks for its queue and history until a prompt has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

from mlxmesh_worker.connectors.address import parse_address
from mlxmesh_worker.connectors.arguments import parse
from mlxmesh_worker.connectors.comfyui.api import ComfyUI, explained
from mlxmesh_worker.connectors.comfyui.arguments import OPERATIONS, Prompt
from mlxmesh_worker.connectors.comfyui.run import PromptRun
from mlxmesh_worker.connectors.http import HttpClient
from mlxmesh_worker.connectors.port import Outcome, Reports, Target, Task
from mlxmesh_worker.connectors.stopping import stopped_if_cancelled


class ComfyUIHttp:
    """The connector comfyui_http."""

    name: ClassVar[str] = "comfyui_http"
    operations: ClassVar[Sequence[str]] = tuple(OPERATIONS)
    tells_state: ClassVar[bool] = True
    """Whether progress says that a prompt runs; else its events say more."""

    def __init__(self, target: Target, *, interval_s: float = 0.5) -> None:
        """interval_s: how often it asks."""
        address = parse_address(target, ("http", "https", "ws", "wss"))
        self._http = HttpClient(address, explained=explained)
        self._api = ComfyUI(self._http)
        self._interval_s = interval_s

    async def close(self) -> None:
        """As Connector."""
        await self._http.close()

    async def probe(self) -> None:
        """As Connector."""
        await self._api.probe()

    def check(self, operation: str, arguments: Mapping[str, Any]) -> None:
        """As Connector."""
        parse(OPERATIONS, operation, arguments)

    async def run(self, task: Task, reports: Reports) -> Outcome:
        """As Connector. Remembers the prompt's id, so that a later attempt finds it."""
        prompt = parse(OPERATIONS, task.operation, task.arguments)
        run = PromptRun(self._api, task, prompt, reports)
        return await stopped_if_cancelled(self._ran(run, prompt, reports), run.stop, reports)

    async def _ran(self, run: PromptRun, prompt: Prompt, reports: Reports) -> Outcome:
        found = await run.find()
        async with self._events(run.prompt_id, prompt, reports) as changed:
            if not found:
                await run.submit()
            entry = await run.follow(changed, self._interval_s, self.tells_state)
        return await run.collect(entry)

    def _events(
        self, prompt_id: str, prompt: Prompt, reports: Reports
    ) -> AbstractAsyncContextManager[asyncio.Event]:
        """An event that is set when it is worth looking at the prompt."""
        return _no_events()


@asynccontextmanager
async def _no_events() -> AsyncGenerator[asyncio.Event]:
    yield asyncio.Event()
