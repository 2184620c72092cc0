"""The relay's handlers: what stays in memory of a call that a service refused."""

import weakref
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from grpc import aio

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.door.door import Door
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_gateway.forwarding.routes import public_routes
from mlxmesh_gateway.forwarding.statuses import STATUS_DETAILS
from mlxmesh_gateway.grpc.entrance import act_as
from mlxmesh_gateway.grpc.relay import Relay
from mlxmesh_shared.errors import InvalidArgument

COUNT_TOKENS = "/mlxmesh.generation.v1.GenerationService/CountTokens"


class Context:
    """Keeps what abort raises, as gRPC's state of a call does."""

    def __init__(self) -> None:
        self.aborted: BaseException | None = None

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> float | None:
        return None

    async def write(self, message: bytes) -> None: ...

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Any) -> None:
        self.aborted = RuntimeError(code, details, trailing)
        raise self.aborted


class Refusing:
    """A door behind which a service refuses every call."""

    async def serve(self, call: PublicCall) -> bytes:
        metadata = aio.Metadata((STATUS_DETAILS, b"details"))
        status = grpc.StatusCode.INVALID_ARGUMENT
        raise InvalidArgument("too long") from aio.AioRpcError(
            status, aio.Metadata(), metadata, "too long"
        )


class Request:
    """Stands for its bytes, which have no weak references."""


async def test_a_request_that_was_refused_is_freed_without_the_garbage_collector(
    no_gc: None,
) -> None:
    relay = Relay(
        [route for route in public_routes() if route.path == COUNT_TOKENS], cast(Door, Refusing())
    )
    handler = cast(Any, relay.service(cast(Any, SimpleNamespace(method=COUNT_TOKENS)))).unary_unary
    act_as(
        Principal(
            kind=Kind.ANONYMOUS, identity="", role=Role.ROLE_UNSPECIFIED, claimed_name="", host=""
        )
    )
    context, request = Context(), Request()
    freed = weakref.ref(request)
    with pytest.raises(RuntimeError, match="too long"):
        await handler(request, context)
    assert isinstance(context.aborted, RuntimeError)
    assert context.aborted.args[0] is grpc.StatusCode.INVALID_ARGUMENT
    del request
    assert freed() is None
