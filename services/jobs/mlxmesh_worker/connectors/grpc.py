"""gRPC with one back end whose messages are well-known types, so that it needs no contract here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from mlxmesh_shared.errors import (
    BackEndFailed,
    InvalidArgument,
    MeshError,
    OutputTooLarge,
    ServiceUnavailable,
)
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel
from mlxmesh_worker.connectors.address import Address

TIMEOUT_S = 30.0
PROBE_TIMEOUT_S = 5.0
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_AWAY = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAUTHENTICATED,
        StatusCode.PERMISSION_DENIED,
    }
)
_REFUSED = frozenset(
    {
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.OUT_OF_RANGE,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.ALREADY_EXISTS,
    }
)
AnyMessage = TypeVar("AnyMessage", bound=Message)


class GrpcClient:
    """Calls of one back end, in plain text. Raises, from every method: ServiceUnavailable if it
    cannot be reached, does not answer in time, is full or refuses its key; InvalidArgument if it
    refuses the request; BackEndFailed.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._channel = open_channel(
            address.host_and_port,
            pings=False,
            max_message_bytes=MAX_MESSAGE_BYTES,
            timeouts=LONG_TIMEOUTS,
        )

    async def close(self) -> None:
        """Closes its connection."""
        await self._channel.close()

    async def probe(self) -> None:
        """Asks for its health, by gRPC's health protocol. Raises: ServiceUnavailable, whatever is
        wrong.
        """
        start = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=_bytes_of,
            response_deserializer=HealthCheckResponse.FromString,
        )
        metadata = await self._authorized()
        try:
            answer = await start(HealthCheckRequest(), timeout=PROBE_TIMEOUT_S, metadata=metadata)
        except MeshError as error:
            raise ServiceUnavailable(f"{self._address.described}: {error.message}") from None
        if answer.status != HealthCheckResponse.SERVING:
            raise ServiceUnavailable(f"{self._address.described} says that it does not serve")

    async def call(self, method: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a request, both objects."""
        start = self._channel.unary_unary(
            method, request_serializer=_bytes_of, response_deserializer=Struct.FromString
        )
        metadata = await self._authorized()
        try:
            return _object(await start(_struct(request), timeout=TIMEOUT_S, metadata=metadata))
        except MeshError as error:
            raise self._meaning(error) from None

    async def objects(
        self, method: str, request: Mapping[str, Any]
    ) -> AsyncGenerator[Mapping[str, Any]]:
        """The objects of a stream, without a time limit."""
        async for message in self.stream(method, request, Struct):
            yield _object(message)

    async def stream(
        self,
        method: str,
        request: Mapping[str, Any],
        kind: type[AnyMessage],
        *,
        max_bytes: int | None = None,
    ) -> AsyncGenerator[AnyMessage]:
        """The messages of a stream. Raises: OutputTooLarge above max_bytes."""
        start = self._channel.unary_stream(
            method, request_serializer=_bytes_of, response_deserializer=kind.FromString
        )
        call = start(_struct(request), metadata=await self._authorized())
        size = 0
        try:
            async for message in call:
                size += message.ByteSize()
                if max_bytes is not None and size > max_bytes:
                    raise OutputTooLarge(
                        f"an answer of {self._address.described} is above {max_bytes:,} bytes"
                    )
                yield message
        except OutputTooLarge:
            raise
        except MeshError as error:
            raise self._meaning(error) from None
        finally:
            call.cancel()

    async def _authorized(self) -> tuple[tuple[str, str], ...]:
        key = await self._address.read_key()
        return (("authorization", f"Bearer {key}"),) if key else ()

    def _meaning(self, error: MeshError) -> MeshError:
        said = f"{self._address.described}: {error.message}"
        if error.code in _AWAY:
            return ServiceUnavailable(said, retry_delay_s=error.retry_delay_s)
        if error.code in _REFUSED:
            return InvalidArgument(said, field="arguments")
        return BackEndFailed(said)


def _bytes_of(message: Message) -> bytes:
    return message.SerializeToString()


def _struct(fields: Mapping[str, Any]) -> Struct:
    return json_format.ParseDict(dict(fields), Struct())


def _object(message: Struct) -> Mapping[str, Any]:
    return json_format.MessageToDict(message)
