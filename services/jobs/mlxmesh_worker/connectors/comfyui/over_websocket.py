"""ComfyUI with its WebSocket, which tells the progress. The history still decides what has ended:
messages are lost when a socket breaks, and sockets of one client replace each other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import Any, ClassVar, cast

from mlxmesh_shared.errors import MeshError
from mlxmesh_worker.connectors.comfyui.arguments import Prompt
from mlxmesh_worker.connectors.comfyui.over_http import ComfyUIHttp
from mlxmesh_worker.connectors.comfyui.progress import PromptProgress
from mlxmesh_worker.connectors.port import Reports, Target
from mlxmesh_worker.connectors.websocket import Connected, WebSocketClient

CONNECT_WAIT_S = 1.0


class ComfyUIWebSocket(ComfyUIHttp):
    """The connector comfyui_websocket."""

    name: ClassVar[str] = "comfyui_websocket"
    tells_state: ClassVar[bool] = False

    def __init__(self, target: Target, *, interval_s: float = 3.0) -> None:
        """interval_s: how often it asks in case that messages were lost."""
        super().__init__(target, interval_s=interval_s)
        self._sockets = WebSocketClient(self._http)

    def _events(
        self, prompt_id: str, prompt: Prompt, reports: Reports
    ) -> AbstractAsyncContextManager[asyncio.Event]:
        classes = {node_id: node.class_type for node_id, node in prompt.prompt.items()}
        return self._listening(PromptProgress(prompt_id, classes), prompt_id, reports)

    @asynccontextmanager
    async def _listening(
        self, progress: PromptProgress, prompt_id: str, reports: Reports
    ) -> AsyncGenerator[asyncio.Event]:
        changed = asyncio.Event()
        listener = asyncio.create_task(self._listen(progress, prompt_id, reports, changed))
        try:
            # So that the first messages are not missed.
            with suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_WAIT_S):
                    await changed.wait()
            yield changed
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    async def _listen(
        self, progress: PromptProgress, prompt_id: str, reports: Reports, changed: asyncio.Event
    ) -> None:
        while True:
            # Without a socket the history still tells the end.
            with suppress(MeshError):
                # Its client id is the prompt's, so that a later attempt gets the messages too.
                opened = self._sockets.messages("/ws", {"clientId": prompt_id})
                async with aclosing(opened) as messages:
                    async for message in messages:
                        await self._take(message, progress, reports)
                        # Also after the end: ComfyUI writes its history a little later, and then
                        # sends its status.
                        if isinstance(message, Connected) or progress.ended:
                            changed.set()
            await asyncio.sleep(self._interval_s)

    async def _take(
        self, message: Connected | str | bytes, progress: PromptProgress, reports: Reports
    ) -> None:
        # Binary messages are previews.
        if not isinstance(message, str):
            return
        try:
            parsed: object = json.loads(message)
        except (ValueError, RecursionError):
            return
        fields = cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
        data: object = fields.get("data")
        if not isinstance(data, Mapping):
            return
        if progress.take(str(fields.get("type")), cast("Mapping[str, Any]", data)):
            await reports.progress(
                fraction=progress.fraction,
                done=progress.done,
                total=progress.total,
                unit="steps",
                text=progress.text,
            )
