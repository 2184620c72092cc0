"""The simulation by WebSocket: one socket for each job, which tells its progress."""

from __future__ import annotations

import json
from contextlib import aclosing, suppress
from typing import ClassVar

from mlxmesh_shared.errors import BackEndFailed, ServiceUnavailable
from mlxmesh_worker.connectors.address import parse_address
from mlxmesh_worker.connectors.http import HttpClient
from mlxmesh_worker.connectors.port import Outcome, Reports, Target, Task
from mlxmesh_worker.connectors.simulation.over_http import cancel, finished
from mlxmesh_worker.connectors.simulation.work import (
    SimulationConnector,
    Status,
    order_of,
    reported,
    status_of,
)
from mlxmesh_worker.connectors.stopping import stopped_if_cancelled
from mlxmesh_worker.connectors.websocket import Connected, WebSocketClient


class SimulationWebSocket(SimulationConnector):
    """The connector simulation_websocket."""

    name: ClassVar[str] = "simulation_websocket"

    def __init__(self, target: Target) -> None:
        self._http = HttpClient(parse_address(target, ("http", "https", "ws", "wss")))
        self._sockets = WebSocketClient(self._http)

    async def close(self) -> None:
        """As Connector."""
        await self._http.close()

    async def probe(self) -> None:
        """As Connector."""
        await self._http.probe("/health")

    async def run(self, task: Task, reports: Reports) -> Outcome:
        """As Connector. Nothing is remembered: the back end knows jobs by their ids."""
        order = json.dumps(order_of(task))

        async def stop() -> None:
            await cancel(self._http, task)

        return await stopped_if_cancelled(self._ran(order, reports), stop, reports)

    async def _ran(self, order: str, reports: Reports) -> Outcome:
        return await finished(self._http, await self._ended(order, reports), reports)

    async def _ended(self, order: str, reports: Reports) -> Status:
        async with aclosing(self._sockets.messages("/v1/ws")) as messages:
            async for message in messages:
                if isinstance(message, Connected):
                    # Again after each interruption: an attempt that was begun goes on.
                    with suppress(ServiceUnavailable):
                        await message.socket.send(order)
                    continue
                status = status_of(_parsed(message))
                if status.state != "running":
                    return status
                await reported(status, reports)
        raise AssertionError("messages do not end")


def _parsed(message: str | bytes) -> object:
    try:
        return json.loads(message)
    except (ValueError, RecursionError):
        raise BackEndFailed("the simulation sent a message that is no JSON") from None
