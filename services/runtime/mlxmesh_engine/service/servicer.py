"""EngineService: checks messages, calls the dispatcher, replies."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from mlxmesh.engine.v1 import engine_pb2
from mlxmesh_engine.scheduling.request import Update
from mlxmesh_engine.service.backend import Backend, Encoder, ModelFacts
from mlxmesh_engine.service.convert import limits_of, to_load, to_request, to_response
from mlxmesh_engine.service.convert_encode import (
    check_encoding,
    check_generates,
    to_encode_call,
    to_encode_response,
)
from mlxmesh_engine.service.dispatcher import Dispatcher, Stream
from mlxmesh_shared.errors import EngineDraining, Internal, MalformedMessage, MeshError
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.settings import EngineSettings

SERVICE = engine_pb2.DESCRIPTOR.services_by_name["EngineService"]
Context = aio.ServicerContext[Any, Any]


class EngineServicer:
    """Serves the generation services and the runtime."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        backend: Backend,
        loaded: ModelFacts,
        settings: EngineSettings,
        encoder: Encoder | None = None,
    ) -> None:
        """encoder: the backend of an engine that encodes; None if it generates."""
        self._dispatcher = dispatcher
        self._backend = backend
        self._loaded = loaded
        self._settings = settings
        self._encoder = encoder
        self._limits = limits_of(loaded, settings.max_adapters)
        self._validator = Validator.for_services(SERVICE)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service's methods.

        Execute takes raw messages and checks them itself: an illegal command must end its own
        sequence, whereas the server's guard would end the whole stream.
        """
        return grpc.method_handlers_generic_handler(
            SERVICE.full_name,
            {
                "Execute": grpc.stream_stream_rpc_method_handler(
                    self.Execute,
                    response_serializer=engine_pb2.ExecuteResponse.SerializeToString,
                ),
                "Encode": grpc.unary_unary_rpc_method_handler(
                    self.Encode,
                    request_deserializer=engine_pb2.EncodeRequest.FromString,
                    response_serializer=engine_pb2.EncodeResponse.SerializeToString,
                ),
                "GetEngineInfo": grpc.unary_unary_rpc_method_handler(
                    self.GetEngineInfo,
                    request_deserializer=engine_pb2.GetEngineInfoRequest.FromString,
                    response_serializer=engine_pb2.GetEngineInfoResponse.SerializeToString,
                ),
            },
        )

    async def Execute(
        self,
        requests: AsyncIterator[bytes],
        context: Context,
    ) -> AsyncIterator[engine_pb2.ExecuteResponse]:
        stream = self._dispatcher.open_stream()
        stream.outbox.put([], self._backend.load)
        reader = asyncio.create_task(self._run_commands(stream, requests))
        try:
            while (outputs := await stream.outbox.get()) is not None:
                yield to_response(*outputs, now_s=time.monotonic())
            if reader.done():
                await reader
            else:
                raise EngineDraining("the engine is shutting down; resume on another replica")
        finally:
            reader.cancel()
            self._dispatcher.close_stream(stream)

    async def Encode(
        self, request: engine_pb2.EncodeRequest, context: Context
    ) -> engine_pb2.EncodeResponse:
        check_encoding(request.encoding, self._settings.kind)
        if self._encoder is None:
            raise Internal("an engine that generates was asked to encode")
        call = to_encode_call(request, limits=self._limits, now_s=time.monotonic())
        await self._dispatcher.encode(call, self._encoder)
        load = to_load(self._backend.load, now_s=time.monotonic())
        return to_encode_response(call, request.encoding, load)

    async def GetEngineInfo(
        self,
        request: engine_pb2.GetEngineInfoRequest,
        context: Context,
    ) -> engine_pb2.GetEngineInfoResponse:
        return engine_pb2.GetEngineInfoResponse(
            engine_id=self._settings.engine_id,
            model=self._settings.model,
            model_version=self._settings.model_version,
            device=self._loaded.device,
            dtype=self._loaded.dtype,
            dtype_note=self._loaded.dtype_note,
            blas=self._loaded.blas,
            context_tokens=self._loaded.context_tokens,
            vocab_size=self._loaded.vocab_size,
            weights_bytes=self._loaded.weights_bytes,
            steps=self._backend.steps,
            time_since_progress_ms=round(self._backend.time_since_progress_s * 1e3),
            load=to_load(self._backend.load, now_s=time.monotonic()),
            kind=self._settings.kind,
            dimensions=self._loaded.dimensions,
            kv_cache_type=self._settings.kv_cache_type,
        )

    async def _run_commands(self, stream: Stream, requests: AsyncIterator[bytes]) -> None:
        """Runs the caller's commands; after the last one, waits for active sequences to end."""
        try:
            async for encoded in requests:
                self._run_command(stream, _parse(encoded))
                await stream.outbox.wait_writable()
            await stream.wait_idle()
        finally:
            stream.outbox.close()

    def _run_command(self, stream: Stream, request: engine_pb2.ExecuteRequest) -> None:
        sequence_id = request.submit.sequence_id or next(iter(request.cancel.sequence_ids), 0)
        try:
            self._validator.check(request)
            if request.HasField("cancel"):
                for each_id in request.cancel.sequence_ids:
                    self._dispatcher.cancel(stream, each_id)
            else:
                self._submit(stream, request.submit)
        except MeshError as error:
            self._dispatcher.reject(stream, sequence_id, error)

    def _submit(self, stream: Stream, submit: engine_pb2.Submit) -> None:
        sequence_id = submit.sequence_id
        check_generates(self._settings.kind)
        accepted = to_request(
            submit, stream_id=stream.stream_id, limits=self._limits, now_s=time.monotonic()
        )
        # Images may leave less room for output, so theirs is not complete before they are read.
        if not accepted.image_files and (reason := accepted.complete) is not None:
            self._dispatcher.finish(
                stream, Update(sequence_id, accepted=True, finish_reason=reason)
            )
        else:
            self._dispatcher.submit(stream, accepted)


def _parse(encoded: bytes) -> engine_pb2.ExecuteRequest:
    try:
        return engine_pb2.ExecuteRequest.FromString(encoded)
    except DecodeError as error:
        # Its sequence is unknown, so the whole stream ends.
        raise MalformedMessage("the message is not a valid ExecuteRequest") from error
