"""Serves the inference service over gRPC: each request is a call of the mesh, which it carries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import grpc
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
from mlxmesh_gateway.kserve.streams import InferStream, Streams, Write
from mlxmesh_shared.errors import MeshError, ModelNotFound
from mlxmesh_shared.rpc.carried_call import Behaviour, CarriedCall, Guarded
from mlxmesh_shared.rpc.server import remaining_s

Context = aio.ServicerContext[Any, Any]
Stream = InferStream[pb.ModelInferRequest, pb.ModelStreamInferResponse]


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
        max_streams: int,
        ready: Callable[[], bool],
        refuse_unknown: bool,
    ) -> None:
        """guarded: as of MeshServer; called with the first request.

        current_caller: names the caller of this task's call, as limits count it.
        max_streams: open at once, half of them for each caller.
        ready: whether the mesh can generate.
        refuse_unknown: whether parameters that nobody knows are an error.
        """
        self._handlers = handlers
        self._guarded = guarded
        self._current_caller = current_caller
        self._ready = ready
        self._refuse_unknown = refuse_unknown
        self._behaviours: dict[str, Behaviour] = {}
        self._streams = Streams(max_streams)

    def close(self) -> None:
        """Ends each stream after its running requests."""
        self._streams.close()

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
        stream = Stream(partial(self._serve, context))
        with self._streams.counted(self._current_caller(), stream):
            await stream.run(requests, context.write)

    async def _serve(
        self,
        context: Context,
        request: pb.ModelInferRequest,
        write: Write[pb.ModelStreamInferResponse],
    ) -> None:
        """Serves one request of a stream."""
        failed = convert.failed_response(request)
        try:
            inference = self._read(request, may_stream=True)
            del request  # a long generation must not hold it
            if inference.stream:
                generate = convert.generate_request(inference).SerializeToString()
                await self._deltas(replace(inference, prompt=""), generate, context, write)
            else:
                part = await self._whole(inference, context)
                await write(convert.Responses(inference).streamed(part))
        except MeshError as error:
            failed.error_message = error.message
            await write(failed)

    async def _deltas(
        self,
        inference: Inference,
        generate: bytes,
        context: Context,
        write: Write[pb.ModelStreamInferResponse],
    ) -> None:
        parts = convert.StreamedParts()
        responses = convert.Responses(inference)
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

        await self._call(GENERATE, generate, context, write=pass_on, timeout_s=inference.timeout_s)

    async def _whole(self, inference: Inference, context: Context) -> Any:
        request = g.CompleteRequest(generation=convert.generate_request(inference))
        encoded = request.SerializeToString()
        response = await self._call(COMPLETE, encoded, context, timeout_s=inference.timeout_s)
        return convert.whole_part(g.CompleteResponse.FromString(response))

    def _read(self, request: pb.ModelInferRequest, *, may_stream: bool) -> Inference:
        return read_inference(
            convert.infer_request(request),
            may_stream=may_stream,
            refuse_unknown=self._refuse_unknown,
        )

    async def _model(self, name: str, version: str, context: Context) -> m.Model:
        request = convert.get_model_request(name, version)
        response = await self._call(GET_MODEL, request.SerializeToString(), context)
        return m.GetModelResponse.FromString(response).model

    async def _call(
        self,
        method: str,
        request: bytes,
        context: Context,
        *,
        write: Write[bytes] | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        """The response of a call of the mesh; a stream is written. Raises: MeshError."""
        call = CarriedCall(
            context,
            request=request,
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
