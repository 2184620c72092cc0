"""The gRPC services of generation: convert, call, convert back."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from mlxmesh.generation.v1.generation_pb2 import (
    AttachGenerationRequest,
    AttachGenerationResponse,
    CancelGenerationRequest,
    CancelGenerationResponse,
    CompleteRequest,
    CompleteResponse,
    CountTokensRequest,
    CountTokensResponse,
    GenerateRequest,
    GetGenerationRequest,
    GetGenerationResponse,
    GetOutputFormatRequest,
    GetOutputFormatResponse,
    RelayRequest,
    ResumeGenerationRequest,
    ResumeGenerationResponse,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceServicer
from mlxmesh.telemetry.v1.telemetry_pb2 import GetMeshStatusRequest, GetMeshStatusResponse, Instance
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceServicer
from mlxmesh_generation import convert, convert_events
from mlxmesh_generation.convert_events import WholeOutputs
from mlxmesh_generation.domain.request import GenerationKey, GenerationRequest
from mlxmesh_generation.placement.engines import Engines
from mlxmesh_generation.relay.servicer import Relays
from mlxmesh_generation.streams.generations import Generations
from mlxmesh_shared.errors import MethodNotFound
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.registry.convert import breaker_message, instance_message
from mlxmesh_shared.rpc.caller import claimed_caller, forwarded_owner
from mlxmesh_shared.rpc.server import remaining_s


class GenerationServicer(GenerationServiceServicer):
    """The server has checked the legal ranges before it calls a handler."""

    def __init__(self, generations: Generations, relays: Relays) -> None:
        self._generations = generations
        self._relays = relays

    def Relay(self, request_iterator: AsyncIterator[RelayRequest], context: Any) -> Any:
        return self._relays.serve(self, request_iterator, context)

    def Generate(self, request: GenerateRequest, context: Any) -> Any:
        # It writes its messages: another generator would cost time for every token.
        return self._generate(request, context)

    async def _generate(self, request: GenerateRequest, context: Any) -> None:
        asked = _asked(request, context)
        transcript = await self._generations.begin(asked, remaining_s(context))
        async with aclosing(transcript.read()) as events:
            async for sequence, event in events:
                numbering = transcript.numbering.of(sequence)
                await context.write(convert_events.generate_response(sequence, event, numbering))

    async def Complete(self, request: CompleteRequest, context: Any) -> CompleteResponse:
        asked = _asked(request.generation, context)
        transcript = await self._generations.begin(asked, remaining_s(context))
        async with aclosing(transcript.read()) as events:
            response = CompleteResponse()
            whole = WholeOutputs(response)
            async for _, event in events:
                whole.add(event)
            whole.complete()
            return response

    async def AttachGeneration(
        self, request: AttachGenerationRequest, context: Any
    ) -> AsyncIterator[AttachGenerationResponse]:
        digest, reader = convert.attached_digest(request), convert.attached_position(request)
        transcript = self._generations.find(_key(request, context), digest, reader)
        async with aclosing(transcript.read(request.after_sequence)) as events:
            async for sequence, event in events:
                numbering = transcript.numbering.of(sequence)
                message = convert_events.generate_response(sequence, event, numbering)
                response = AttachGenerationResponse(message=message)
                if sequence == request.after_sequence + 1 and transcript.started is not None:
                    response.started.CopyFrom(convert_events.started(transcript.started))
                yield response

    async def ResumeGeneration(
        self, request: ResumeGenerationRequest, context: Any
    ) -> AsyncIterator[ResumeGenerationResponse]:
        asked = _asked(request.generation, context)
        resumed = convert.resumed(request)
        transcript = await self._generations.resume(asked, resumed, remaining_s(context))
        async with aclosing(transcript.read(request.after_sequence)) as events:
            async for sequence, event in events:
                numbering = transcript.numbering.of(sequence)
                message = convert_events.generate_response(sequence, event, numbering)
                yield ResumeGenerationResponse(message=message)

    async def GetGeneration(
        self, request: GetGenerationRequest, context: Any
    ) -> GetGenerationResponse:
        return convert_events.get_response(await self._generations.snapshot(_key(request, context)))

    async def CancelGeneration(
        self, request: CancelGenerationRequest, context: Any
    ) -> CancelGenerationResponse:
        self._generations.cancel(_key(request, context), forget=request.forget)
        return CancelGenerationResponse()

    async def CountTokens(self, request: CountTokensRequest, context: Any) -> CountTokensResponse:
        asked = convert.count_request(request, caller=claimed_caller(context))
        token_ids = await self._generations.count(asked)
        returned = token_ids if request.return_token_ids else ()
        return CountTokensResponse(tokens=len(token_ids), token_ids=returned)

    async def GetOutputFormat(
        self, request: GetOutputFormatRequest, context: Any
    ) -> GetOutputFormatResponse:
        chosen = await self._generations.output_format(ModelReference.parse(request.model))
        return convert_events.output_format_response(chosen)


def _asked(request: GenerateRequest, context: Any) -> GenerationRequest:
    return convert.generation_request(
        request, caller=claimed_caller(context), owner=forwarded_owner(context)
    )


_ById = AttachGenerationRequest | GetGenerationRequest | CancelGenerationRequest


def _key(request: _ById, context: Any) -> GenerationKey:
    return GenerationKey(forwarded_owner(context), request.request_id)


class EngineStatusServicer(TelemetryServiceServicer):
    """Reports the engines as seen from here; gateways serve every other method."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def GetMeshStatus(
        self, request: GetMeshStatusRequest, context: Any
    ) -> GetMeshStatusResponse:
        return GetMeshStatusResponse(instances=self._instances())

    def GetTrace(self, request: Any, context: Any) -> Any:
        raise _served_by_gateways()

    def WatchEvents(self, request: Any, context: Any) -> Any:
        raise _served_by_gateways()

    def PublishEvents(self, request: Any, context: Any) -> Any:
        raise _served_by_gateways()

    def GetTraffic(self, request: Any, context: Any) -> Any:
        raise _served_by_gateways()

    def _instances(self) -> list[Instance]:
        instances: list[Instance] = []
        for engine, breaker in self._engines.breakers():
            message = instance_message(engine)
            message.breaker.CopyFrom(breaker_message(breaker))
            instances.append(message)
        return instances


def _served_by_gateways() -> MethodNotFound:
    return MethodNotFound("generation does not serve this; ask a gateway")
