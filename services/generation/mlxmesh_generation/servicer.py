"""GenerationService: check, call, reply."""

from collections.abc import AsyncIterator
from typing import Any

from mlxmesh.generation.v1.generation_pb2 import (
    CancelGenerationRequest,
    CancelGenerationResponse,
    CompleteRequest,
    CompleteResponse,
    CountTokensRequest,
    CountTokensResponse,
    GenerateRequest,
    GenerateResponse,
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
        async with self._generations.running(asked, remaining_s(context)) as generation:
            sequence = 0
            async for event in generation.events():
                sequence += 1
                yield convert.generate_response(sequence, event)

    async def Complete(self, request: CompleteRequest, context: Any) -> CompleteResponse:
        asked = convert.generation_request(request.generation, caller=caller_of(context))
        async with self._generations.running(asked, remaining_s(context)) as generation:
            return convert.complete_response([event async for event in generation.events()])

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
