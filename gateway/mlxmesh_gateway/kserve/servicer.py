"""Serves the inference service over gRPC: each request is a call of the mesh, which it carries."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message
from grpc import aio

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.inference.v2 import inference_pb2 as pb
from mlxmesh.inference.v2.inference_pb2_grpc import GRPCInferenceServiceServicer
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_gateway.kserve import convert
from mlxmesh_gateway.kserve.errors import renamed
from mlxmesh_gateway.kserve.inference import Inference, read_inference, shorter
from mlxmesh_gateway.kserve.methods import COMPLETE, GENERATE, GET_MODEL
from mlxmesh_gateway.kserve.output import is_shown
from mlxmesh_gateway.kserve.streams import InferStream, Write
from mlxmesh_shared.errors import MeshError, ModelNotFound, TooManyRequests
from mlxmesh_shared.rpc.carried_call import Behaviour, CarriedCall, Guarded
from mlxmesh_shared.rpc.server import remaining_s

Context = aio.ServicerContext[Any, Any]
Stream = InferStream[pb.ModelInferRequest, pb.ModelStreamInferResponse]

MAX_STREAMS_PER_CALLER = 256


class HandlesMethods(Protocol):
    """The handlers of the mesh's public methods."""

    def handler(self, path: str) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of one."""
        ...


class InferenceServicer(GRPCInferenceServiceServicer):
    """Translates requests to calls of GenerationService and ModelService, which do the work.

    Each of these calls passes the server's guard and the door as if its client had made it.
    """

    def __init__(
        self,
        handlers: HandlesMethods,
        guarded: Guarded,
        *,
        current_caller: Callable[[], str],
        ready: Callable[[], bool],
        refuse_unknown: bool,
    ) -> None:
        """guarded: as of MeshServer; called with the first request.

        current_caller: names the caller of this task's call, as limits count it.
        ready: whether the mesh can generate.
        refuse_unknown: whether parameters that nobody knows are an error.
        """
        self._handlers = handlers
        self._guarded = guarded
        self._current_caller = current_caller
        self._ready = ready
        self._refuse_unknown = refuse_unknown
        self._behaviours: dict[str, Behaviour] = {}
        self._streams: set[Stream] = set()
        self._streams_of: Counter[str] = Counter()
        self._closing = False

    def close(self) -> None:
        """Ends each stream after its running requests."""
        self._closing = True
        for stream in self._streams:
            stream.close()

    async def ServerLive(self, request: Any, context: Any) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready())

    async def ServerMetadata(self, request: Any, context: Any) -> pb.ServerMetadataResponse:
        return convert.server_metadata()

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Any) -> Any:
        try:
            model = await self._model(request.name, request.version, context)
        except ModelNotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=convert.is_ready(model))

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Any) -> Any:
        model = await self._model(request.name, request.version, context)
        return convert.model_metadata(model)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Any) -> Any:
        inference = self._read(request, may_stream=False)
        part = await self._whole(inference, context)
        return convert.Responses(inference).of(part)

    def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> Any:
        return self._serve_stream(request_iterator, context)

    async def _serve_stream(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> None:
        with self._stream(partial(self._serve, context)) as stream:
            await stream.run(requests, context.write)

    @contextmanager
    def _stream(self, serve: Any) -> Generator[Stream]:
        caller = self._current_caller()
        if self._streams_of[caller] >= MAX_STREAMS_PER_CALLER:
            raise TooManyRequests(
                f"this caller has {MAX_STREAMS_PER_CALLER} streams here; put several requests on"
                " one",
                retry_delay_s=1.0,
            )
        stream: Stream = InferStream(serve)
        if self._closing:
            stream.close()
        self._streams.add(stream)
        self._streams_of[caller] += 1
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            self._streams_of -= Counter({caller: 1})

    async def _serve(
        self,
        context: Context,
        request: pb.ModelInferRequest,
        write: Write[pb.ModelStreamInferResponse],
    ) -> None:
        """Serves one request of a stream."""
        try:
            inference = self._read(request, may_stream=True)
            responses = convert.Responses(inference)
            if inference.stream:
                await self._deltas(inference, responses, context, write)
            else:
                await write(responses.streamed(await self._whole(inference, context)))
        except MeshError as error:
            await write(convert.failed(request, error))

    async def _deltas(
        self,
        inference: Inference,
        responses: convert.Responses,
        context: Context,
        write: Write[pb.ModelStreamInferResponse],
    ) -> None:
        parts = convert.StreamedParts()
        first = True

        async def pass_on(message: bytes) -> None:
            nonlocal first
            part = parts.read(message)
            if part is None:
                return
            shown = is_shown(inference, part, first=first)
            if shown or inference.empty_final_response:
                first = False
                await write(responses.streamed(part, empty=not shown))

        await self._call(
            GENERATE,
            convert.generate_request(inference),
            context,
            write=pass_on,
            timeout_s=inference.timeout_s,
        )

    async def _whole(self, inference: Inference, context: Context) -> Any:
        request = g.CompleteRequest(generation=convert.generate_request(inference))
        response = await self._call(COMPLETE, request, context, timeout_s=inference.timeout_s)
        return convert.whole_part(g.CompleteResponse.FromString(response))

    def _read(self, request: pb.ModelInferRequest, *, may_stream: bool) -> Inference:
        return read_inference(
            convert.infer_request(request),
            may_stream=may_stream,
            refuse_unknown=self._refuse_unknown,
        )

    async def _model(self, name: str, version: str, context: Context) -> m.Model:
        request = convert.get_model_request(name, version)
        response = await self._call(GET_MODEL, request, context)
        return m.GetModelResponse.FromString(response).model

    async def _call(
        self,
        method: str,
        request: Message,
        context: Context,
        *,
        write: Write[bytes] | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        """The response of a call of the mesh; a stream is written. Raises: MeshError."""
        call = CarriedCall(
            context,
            request=request.SerializeToString(),
            metadata=context.invocation_metadata() or (),
            timeout_s=shorter(remaining_s(context), timeout_s),
            write=write or _no_stream,
        )
        try:
            return await call.run(self._behaviour(method))
        except MeshError as error:
            raise renamed(error) from None

    def _behaviour(self, method: str) -> Behaviour:
        behaviour = self._behaviours.get(method)
        if behaviour is None:
            behaviour = self._guarded(method, self._handlers.handler(method))
            self._behaviours[method] = behaviour
        return behaviour


async def _no_stream(_message: bytes) -> None:
    raise AssertionError("a unary method writes no stream")
