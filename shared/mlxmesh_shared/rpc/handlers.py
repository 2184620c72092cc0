"""Extracts and replaces the behaviour of a method handler of gRPC."""

import contextlib
from collections.abc import Callable
from typing import Any

import grpc

from mlxmesh_shared.errors import MethodNotFound
from mlxmesh_shared.rpc.requests.receiver import Context

Behaviour = Callable[[Any, Context], Any]

# By whether the response is streamed.
_MAKERS: dict[bool, Callable[..., Any]] = {
    False: grpc.stream_unary_rpc_method_handler,
    True: grpc.stream_stream_rpc_method_handler,
}


def behaviour_of(handler: Any) -> Behaviour:
    """The behaviour of a handler, which writes streamed responses to the context."""
    streaming = handler.stream_stream or handler.stream_unary
    behaviour = streaming or handler.unary_stream or handler.unary_unary
    return _written(behaviour) if handler.response_streaming else behaviour


def with_behaviour(handler: Any, serve: Behaviour) -> Any:
    """The handler with another behaviour, which receives the stream of encoded requests.

    To gRPC every method takes a stream: for a method with one request it would read the whole
    message before it calls any code here. There is no difference on the wire.
    """
    make = _MAKERS[handler.response_streaming]
    return make(serve, response_serializer=handler.response_serializer)


async def _no_method(_requests: Any, _context: Context) -> Any:
    raise MethodNotFound("there is no such method here; list the services by reflection")


UNKNOWN_METHOD = _MAKERS[True](_no_method)


def _written(behaviour: Behaviour) -> Behaviour:
    # Writes the responses instead of yielding them, so that a cancelled call closes the handler's
    # generator, and thereby runs its `finally`, before the call ends.
    async def write(request: Any, context: Context) -> None:
        responses = behaviour(request, context)
        if not hasattr(responses, "__aiter__"):
            await responses
            return
        async with contextlib.aclosing(responses):
            async for response in responses:
                await context.write(response)

    return write
