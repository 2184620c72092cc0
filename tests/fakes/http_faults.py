"""Faults of HTTP servers, as aiohttp middleware: the next requests to a path go wrong."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler


@dataclass
class Fault:
    """One thing that goes wrong."""

    path: str
    """The beginning of the paths that it is for."""
    times: int = 1
    status: int = 0
    """Answered instead; 0 for none."""
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    delay_s: float = 0
    drop: bool = False
    """Closes the connection without an answer."""
    drop_after: bool = False
    """Does what was asked, then closes the connection without an answer."""
    method: str = ""
    """Only requests of this method."""


class Faults:
    """Faults that are still to come."""

    def __init__(self) -> None:
        self.pending: list[Fault] = []

    def add(self, path: str, **what: object) -> None:
        self.pending.append(Fault(path, **what))  # pyright: ignore[reportArgumentType]

    def take(self, request: web.BaseRequest) -> Fault | None:
        for fault in self.pending:
            if request.path.startswith(fault.path) and fault.method in ("", request.method):
                fault.times -= 1
                if fault.times <= 0:
                    self.pending.remove(fault)
                return fault
        return None

    @property
    def middleware(self):
        @web.middleware
        async def faulty(request: web.Request, handler: Handler) -> web.StreamResponse:
            fault = self.take(request)
            if fault is None:
                return await handler(request)
            answer = await applied(fault, request)
            if answer is not None:
                return answer
            response = await handler(request)
            if fault.drop_after:
                drop(request)
            return response

        return faulty


async def applied(fault: Fault, request: web.BaseRequest) -> web.Response | None:
    await asyncio.sleep(fault.delay_s)
    if fault.drop:
        drop(request)
        return web.Response(status=500)
    if fault.status:
        return web.Response(status=fault.status, text=fault.text, headers=fault.headers)
    return None


def drop(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
