"""Public methods over gRPC: each call passes the door as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from grpc import aio

from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.door.door import Door
from mlxmesh_gateway.forwarding.routes import Route
from mlxmesh_gateway.forwarding.statuses import service_status
from mlxmesh_gateway.grpc.entrance import current_principal
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.server import remaining_s

Context = aio.ServicerContext[Any, Any]


class Relay(grpc.GenericRpcHandler):
    """Serves every route; the server's entrance has let its calls in."""

    def __init__(self, routes: Sequence[Route], door: Door, *, protocol: str = "grpc") -> None:
        """protocol: as of PublicCall."""
        self._door = door
        self._protocol = protocol
        self._handlers = {route.path: self._handler(route) for route in routes}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a public method, None for any other."""
        return self._handlers.get(handler_call_details.method)

    def handler(self, path: str) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of a public method, for calls that another one carries."""
        return self._handlers[path]

    def _handler(self, route: Route) -> grpc.RpcMethodHandler[Any, Any]:
        # Without a deserializer gRPC passes the bytes as they came.
        async def handle(request: bytes, context: Context) -> Any:
            try:
                return await self._door.serve(self._call(route, request, context))
            except MeshError as error:
                # A service's own status is passed on unchanged, with its details.
                if (status := service_status(error)) is None:
                    raise
            # gRPC stores what this raises, with its context and frames, in a cycle: neither may
            # have the request, which would stay in memory until the next garbage collection.
            del request
            return await context.abort(*status)

        if route.streams:
            return grpc.unary_stream_rpc_method_handler(handle)
        return grpc.unary_unary_rpc_method_handler(handle)

    def _call(self, route: Route, request: bytes, context: Context) -> PublicCall:
        return PublicCall(
            route=route,
            principal=current_principal(),
            request=request,
            metadata=tuple(context.invocation_metadata() or ()),
            remaining_s=remaining_s(context),
            write=context.write,
            protocol=self._protocol,
        )
