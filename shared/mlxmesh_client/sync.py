"""Generates text without asyncio, for scripts and notebooks."""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Unpack

import grpc
from grpc import aio

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest, GenerateResponse
from mlxmesh_client.calls import trace_metadata
from mlxmesh_client.credentials import bearer, check_key
from mlxmesh_client.options import GenerateOptions
from mlxmesh_client.outputs import GenerationEvent, to_event
from mlxmesh_client.request import generate_request
from mlxmesh_shared.errors import InvalidArgument, ServiceUnavailable
from mlxmesh_shared.rpc.error_status import from_rpc_error

_GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"


def generate_events(
    channel: grpc.Channel,
    model: str,
    *,
    timeout_s: float | None = None,
    api_key: str = "",
    **options: Unpack[GenerateOptions],
) -> Generator[GenerationEvent]:
    """Yields the events of one generation, over a channel that the caller owns.

    `Outputs` joins them to whole outputs. An `api_key` is sent as it is: a channel that leaves this
    machine must be encrypted. Raises MeshError subclasses; ServiceUnavailable also when the stream
    ends without its last event.
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
            event = to_event(response)
            finished = event.is_last
            yield event
    except grpc.RpcError:
        raise from_rpc_error(_as_aio(call)) from None
    finally:
        call.cancel()
    if not finished:
        raise ServiceUnavailable("the stream ended before the generation did; try again")


def generate_text(
    channel: grpc.Channel,
    model: str,
    *,
    timeout_s: float | None = None,
    api_key: str = "",
    **options: Unpack[GenerateOptions],
) -> Iterator[str]:
    """Yields the text of one output piece by piece, like `generate_events`.

    Reasoning and tool calls are left out. Raises InvalidArgument for `n` above 1.
    """
    if options.get("n", 1) != 1:
        raise InvalidArgument("n must be 1 here; generate_events takes more", field="n")
    stream = generate_events(channel, model, timeout_s=timeout_s, api_key=api_key, **options)
    with closing(stream) as events:
        for event in events:
            if event.text:
                yield event.text


def _as_aio(call: grpc.Call) -> aio.AioRpcError:
    """The error as the type that `from_rpc_error` reads."""
    return aio.AioRpcError(
        call.code(), aio.Metadata(), aio.Metadata(*call.trailing_metadata()), call.details()
    )
