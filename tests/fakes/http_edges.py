"""The application of all HTTP edges, before a door that answers every call at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from mlxmesh_gateway.edges import edge_routes
from mlxmesh_gateway.http.app import create_app
from mlxmesh_gateway.http.door import HttpDoor
from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.http.exchange import UnknownFields
from mlxmesh_gateway.http.served import ServedRequests
from mlxmesh_gateway.http.server import HttpPort
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from tests.fakes.door import FakeDoor
from tests.fakes.open_entrance import open_entrance


def edges_app(door: FakeDoor | None = None) -> Starlette:
    """Everybody may do everything, 100 requests at a time."""
    entrance = open_entrance(ConcurrencyLimiter(100))
    http = HttpDoor(entrance, door or FakeDoor(), max_body_bytes=2**20, max_held_bytes=2**24)
    parts = EdgeParts(door=http, served=ServedRequests(), unknown_fields=UnknownFields())
    return create_app(None, edge_routes(parts))


@asynccontextmanager
async def serving_edges(door: FakeDoor) -> AsyncGenerator[str]:
    """The application on an HTTP port; yields its URL."""
    with HttpPort("127.0.0.1:0") as port:
        async with port.serving(lambda: edges_app(door), grace_s=0.3, end_requests=lambda: None):
            yield f"http://{port.address}"
