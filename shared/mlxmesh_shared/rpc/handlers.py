"""A method's handler in gRPC's table, taken apart and put together again."""

import contextlib
from collections.abc import Callable
from typing import Any

import grpc

from mlxmesh_shared.errors import MethodNotFound
from mlxmesh_shared.rpc.requests.receiver import Context

Behaviour = Callable[[Any, Context], Any]

# By whether the response is a stream.
_MAKERS: dict[bool, Callable[..., Any]] = {
    False: grpc.stream_unary_rpc_method_handler,
    True: grpc.stream_stream_rpc_method_handler,
}


def behaviour_of(handler: Any) -> Behaviour:
    """What a servicer does for one call, its responses written to the context where they stream."""
    streaming = handler.stream_stream or handler.stream_unary
    behaviour = streaming or handler.unary_stream or handler.unary_unary
    return _written(behaviour) if handler.response_streaming else behaviour


def rebuilt(handler: Any, serve: Behaviour) -> Any:
    """The handler with another behaviour, which is given the stream of encoded requests.

    For gRPC each method takes a stream: what takes one message would have it read to its end before
    anything here is asked. There is no difference on the wire.
    """
    make = _MAKERS[handler.response_streaming]
    return make(serve, response_serializer=handler.response_serializer)


async def _no_method(_requests: Any, _context: Context) -> Any:
    raise MethodNotFound("there is no such method here; list the services by reflection")


UNKNOWN_METHOD = _MAKERS[True](_no_method)


def _written(behaviour: Behaviour) -> Behaviour:
    # Written by hand instead of yielded, so that a cancelled call closes the handler's generator,
    # and with it runs its `finally`, before the call counts as ended.
    async def write(request: Any, context: Context) -> None:
        responses = behaviour(request, context)
        if not hasattr(responses, "__aiter__"):
            await responses
            return
        async with contextlib.aclosing(responses):
            async for response in responses:
                await context.write(response)

    return write
