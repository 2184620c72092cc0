"""The data behind `mlxmesh top`, read from the public API of one gateway."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.live import Live

from mlxmesh.telemetry.v1.events_pb2 import Event, WatchEventsResponse
from mlxmesh_cli.screen.output import to_dict
from mlxmesh_cli.screen.top_view import Screen, frame
from mlxmesh_client import MeshClient, MeshError

STATUS_TIMEOUT_S = 3.0
MAX_EVENTS = 50


class MeshState:
    """The last known state of a mesh; the screen says when it is out of date."""

    def __init__(self, client: MeshClient, gateway: str) -> None:
        self.screen = Screen(gateway, datetime.now().astimezone())
        self._client = client
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)

    async def refresh(self) -> None:
        """Reads the state. Raises: MeshError."""
        status = await self._client.mesh_state(timeout_s=STATUS_TIMEOUT_S)
        self._update(status=status, problem="")

    async def read_all(self) -> None:
        """Reads the state and the retained events. Raises: MeshError."""
        await asyncio.gather(self.refresh(), self.read_retained_events())

    async def try_refresh(self) -> None:
        """Reads the state, or records why that failed."""
        try:
            await self.refresh()
        except MeshError as error:
            self._update(problem=f"the gateway is unavailable ({error.reason})")

    async def read_retained_events(self) -> None:
        """Reads the events that the gateway retains."""
        await self._read(self._client.watch_events(timeout_s=STATUS_TIMEOUT_S), retained_only=True)

    async def follow_events(self) -> None:
        """Reads the retained events, then each new one, until cancelled."""
        await self._read(self._client.follow_events(), retained_only=False)

    async def _read(self, watch: Any, *, retained_only: bool) -> None:
        try:
            async with aclosing(watch) as responses:
                async for one in responses:
                    if retained_only and one.HasField("synced"):
                        return
                    self._add_event(one)
        except MeshError as error:
            self._update(no_events=error.message)

    def _add_event(self, one: WatchEventsResponse) -> None:
        if one.HasField("event"):
            self._events.append(one.event)
            self._update(events=tuple(self._events))

    def _update(self, **changes: Any) -> None:
        self.screen = replace(self.screen, now=datetime.now().astimezone(), **changes)


async def as_json(state: MeshState) -> dict[str, Any]:
    """The state as `mlxmesh top --json` prints it. Raises: MeshError."""
    await state.read_all()
    events = [to_dict(event) for event in state.screen.events]
    return {**to_dict(state.screen.status), "events": events}


async def watch(state: MeshState, console: Console, interval_s: float) -> None:
    """Refreshes the screen until cancelled, also while the gateway is unavailable."""
    following = asyncio.create_task(state.follow_events())
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                await state.try_refresh()
                # The height is read each time: the terminal may be resized.
                live.update(frame(state.screen, console.height), refresh=True)
                await asyncio.sleep(interval_s)
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
