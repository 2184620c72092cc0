"""GenerationService: check, call, reply."""

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
    GenerateResponse,
    ResumeGenerationRequest,
    ResumeGenerationResponse,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceServicer
from mlxmesh_generation import convert
from mlxmesh_generation.generations import Generations
from mlxmesh_shared.caller import caller_of
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.server import remaining_s


class GenerationServicer(GenerationServiceServicer):
    """Legal ranges are checked before a handler is called."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    async def Generate(
        self, request: GenerateRequest, context: Any
    ) -> AsyncIterator[GenerateResponse]:
        asked = convert.generation_request(request, caller=caller_of(context))
        transcript = await self._generations.begin(asked, remaining_s(context))
        async with aclosing(transcript.read()) as events:
            async for sequence, event in events:
                yield convert.generate_response(sequence, event)

    async def Complete(self, request: CompleteRequest, context: Any) -> CompleteResponse:
        asked = convert.generation_request(request.generation, caller=caller_of(context))
        transcript = await self._generations.begin(asked, remaining_s(context))
        async with aclosing(transcript.read()) as events:
            return convert.complete_response([event async for _, event in events])

    async def AttachGeneration(
        self, request: AttachGenerationRequest, context: Any
    ) -> AsyncIterator[AttachGenerationResponse]:
        transcript = self._generations.find(request.request_id)
        async with aclosing(transcript.read(request.after_sequence)) as events:
            async for sequence, event in events:
                message = convert.generate_response(sequence, event)
                yield AttachGenerationResponse(message=message)

    async def ResumeGeneration(
        self, request: ResumeGenerationRequest, context: Any
    ) -> AsyncIterator[ResumeGenerationResponse]:
        asked = convert.generation_request(request.generation, caller=caller_of(context))
        resumed = convert.resumed(request)
        transcript = await self._generations.resume(asked, resumed, remaining_s(context))
        async with aclosing(transcript.read(request.after_sequence)) as events:
            async for sequence, event in events:
                message = convert.generate_response(sequence, event)
                yield ResumeGenerationResponse(message=message)

    async def CancelGeneration(
        self, request: CancelGenerationRequest, context: Any
    ) -> CancelGenerationResponse:
        self._generations.cancel(request.request_id)
        return CancelGenerationResponse()

    async def CountTokens(self, request: CountTokensRequest, context: Any) -> CountTokensResponse:
        source = convert.prompt_input(request)
        token_ids = await self._generations.count(ModelReference.parse(request.model), source)
        returned = token_ids if request.return_token_ids else ()
        return CountTokensResponse(tokens=len(token_ids), token_ids=returned)
