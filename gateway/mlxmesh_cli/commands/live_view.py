"""How `mlxmesh top` learns what it shows: over the public API of one gateway, and nothing else."""

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


class Look:
    """What is known of a mesh; what cannot be asked stays as it was, and the screen says so."""

    def __init__(self, client: MeshClient, gateway: str) -> None:
        self.screen = Screen(gateway, datetime.now().astimezone())
        self._client = client
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)

    async def ask(self) -> None:
        """The state as it is now. Raises: MeshError."""
        status = await self._client.mesh_state(timeout_s=STATUS_TIMEOUT_S)
        self._update(status=status, problem="")

    async def once(self) -> None:
        """The state and the events as they are now. Raises: MeshError."""
        await asyncio.gather(self.ask(), self.read_kept_events())

    async def ask_or_say(self) -> None:
        """The state as it is now, or why it is not known."""
        try:
            await self.ask()
        except MeshError as error:
            self._update(problem=f"the gateway is away ({error.reason})")

    async def read_kept_events(self) -> None:
        """Those that the gateway has kept."""
        await self._read(self._client.watch_events(timeout_s=STATUS_TIMEOUT_S), kept_only=True)

    async def follow_events(self) -> None:
        """Those that the gateway has kept, then each as it happens, until cancelled."""
        await self._read(self._client.follow_events(), kept_only=False)

    async def _read(self, watch: Any, *, kept_only: bool) -> None:
        try:
            async with aclosing(watch) as news:
                async for one in news:
                    if kept_only and one.HasField("synced"):
                        return
                    self._note(one)
        except MeshError as error:
            self._update(no_events=error.message)

    def _note(self, one: WatchEventsResponse) -> None:
        if one.HasField("event"):
            self._events.append(one.event)
            self._update(events=tuple(self._events))

    def _update(self, **changes: Any) -> None:
        self.screen = replace(self.screen, now=datetime.now().astimezone(), **changes)


async def as_json(look: Look) -> dict[str, Any]:
    """One look, as `mlxmesh top --json` prints it. Raises: MeshError."""
    await look.once()
    events = [to_dict(event) for event in look.screen.events]
    return {**to_dict(look.screen.status), "events": events}


async def watch(look: Look, console: Console, interval_s: float) -> None:
    """Looks again and again until cancelled; a gateway that is away is waited for."""
    following = asyncio.create_task(look.follow_events())
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                await look.ask_or_say()
                # The size is asked for each time: a terminal may be made larger or smaller.
                live.update(frame(look.screen, console.height), refresh=True)
                await asyncio.sleep(interval_s)
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
