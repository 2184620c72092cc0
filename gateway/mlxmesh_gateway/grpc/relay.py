"""The public methods over gRPC: a call's context becomes a PublicCall, an error a status."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import grpc
from grpc import aio

from mlxmesh_gateway.door.call import Incoming, PublicCall
from mlxmesh_gateway.door.principal import authenticate
from mlxmesh_gateway.door.routes import Route
from mlxmesh_gateway.door.steps import CallPreparation
from mlxmesh_gateway.upstream.relay import Relay
from mlxmesh_gateway.upstream.statuses import service_status
from mlxmesh_shared.errors import Cancelled, MeshError, ServiceUnavailable
from mlxmesh_shared.rpc.server import remaining_s
from mlxmesh_shared.tls.identity import peer_identity

T = TypeVar("T")
Context = aio.ServicerContext[Any, Any]


class GrpcRelay(grpc.GenericRpcHandler):
    """Serves every route. CallGuard has authorized and admitted the calls before."""

    def __init__(self, routes: Sequence[Route], preparation: CallPreparation, relay: Relay) -> None:
        self._preparation = preparation
        self._relay = relay
        self._handlers = {route.path: self._handler(route) for route in routes}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a public method, None for any other."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, route: Route) -> grpc.RpcMethodHandler[Any, Any]:
        # Without a deserializer gRPC passes the bytes of the request unchanged.
        async def unary(request: bytes, context: Context) -> bytes:
            call = await self._prepared(route, request, context)
            return await _translated(self._relay.unary(call), context)

        async def stream(request: bytes, context: Context) -> None:
            call = await self._prepared(route, request, context)
            await _translated(self._relay.stream(call, context.write), context)

        if route.streams:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)

    async def _prepared(self, route: Route, request: bytes, context: Context) -> PublicCall:
        """Raises: MalformedMessage, InvalidArgument, FeatureNotSupported."""
        metadata = tuple(context.invocation_metadata() or ())
        identity = peer_identity(context.auth_context())
        principal = authenticate(identity, metadata, peer=context.peer())
        incoming = Incoming(
            route=route,
            request=request,
            principal=principal,
            metadata=metadata,
            remaining_s=remaining_s(context),
        )
        return await self._preparation.prepare(incoming)


async def _translated(relayed: Awaitable[T], context: Context) -> T:
    """The result of `relayed`; the status of a service is returned unchanged, with its details."""
    try:
        return await relayed
    except MeshError as error:
        if (status := service_status(error)) is not None:
            await context.abort(*status)
        if isinstance(error, Cancelled):
            # The client did not cancel, or this handler would not run: the instance ended the call.
            raise ServiceUnavailable("the service ended the call; try again") from error
        raise
