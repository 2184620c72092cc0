"""Generates text without asyncio, for scripts and notebooks."""

from collections.abc import Iterator
from typing import Unpack

import grpc
from grpc import aio

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, GenerateResponse
from mlxmesh_client.calls import trace_metadata
from mlxmesh_client.credentials import bearer, check_key
from mlxmesh_client.request import GenerateOptions, generate_request
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.rpc.error_status import from_rpc_error

_GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"


def generate_text(
    channel: grpc.Channel,
    model: str,
    *,
    timeout_s: float | None = None,
    api_key: str = "",
    **options: Unpack[GenerateOptions],
) -> Iterator[str]:
    """Yields the text of one response piece by piece, over a channel that the caller owns.

    An `api_key` is sent as it is: a channel that leaves this machine must be encrypted.
    Raises MeshError subclasses; ServiceUnavailable also when the stream ends without its Finished
    event.
    """
    method = channel.unary_stream(
        _GENERATE,
        request_serializer=GenerateRequest.SerializeToString,
        response_deserializer=GenerateResponse.FromString,
    )
    metadata = (*(trace_metadata() or ()), *(bearer(check_key(api_key)) if api_key else ()))
    call = method(generate_request(model, options), timeout=timeout_s, metadata=metadata or None)
    finished = False
    try:
        for response in call:
            finished = response.WhichOneof("event") == "finished"
            if response.delta.text:
                yield response.delta.text
    except grpc.RpcError:
        raise from_rpc_error(_as_aio(call)) from None
    finally:
        call.cancel()
    if not finished:
        raise ServiceUnavailable("the stream ended before the generation did; try again")


def _as_aio(call: grpc.Call) -> aio.AioRpcError:
    """The error as the type that `from_rpc_error` reads."""
    return aio.AioRpcError(
        call.code(), aio.Metadata(), aio.Metadata(*call.trailing_metadata()), call.details()
    )
