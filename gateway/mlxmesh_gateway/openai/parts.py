"""OpenAI's generation requests as generations, and the bodies of their responses, without HTTP.

The routes use them, and so do the requests of batches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.user_label import add_user
from mlxmesh_gateway.openai.answers import Origin, whole
from mlxmesh_gateway.openai.chat_convert import chat_generation
from mlxmesh_gateway.openai.chat_schema import ChatRequest
from mlxmesh_gateway.openai.completion_convert import text_generations
from mlxmesh_gateway.openai.completion_schema import CompletionRequest
from mlxmesh_gateway.openai.convert import tier_name
from mlxmesh_gateway.openai.labels import add_metadata
from mlxmesh_gateway.openai.shapes import ChatShape, Shape, TextShape

Part = tuple[pb.GenerateRequest, Shape]
"""A generation, and how its outputs are shown."""


def chat_part(request: ChatRequest, request_id: str = "") -> tuple[Part, list[str]]:
    """The generation of a chat, and the paths of what is ignored.

    Raises: InvalidArgument, FeatureNotSupported.
    """
    generation = chat_generation(request, request_id=request_id)
    ignored = add_user(
        generation.labels, user=request.user, safety_identifier=request.safety_identifier
    )
    ignored += add_metadata(generation, request.metadata)
    shape = ChatShape(outputs=generation.n or 1, logprobs=bool(request.logprobs))
    return (generation, shape), ignored


def text_parts(request: CompletionRequest, request_id: str = "") -> tuple[list[Part], list[str]]:
    """A generation for each prompt, and the paths of what is ignored.

    Raises: InvalidArgument, FeatureNotSupported.
    """
    generations = text_generations(request, request_id=request_id)
    ignored = [name for each in generations for name in add_user(each.labels, user=request.user)]
    parts: list[Part] = [
        (generation, _text_shape(request, generation, number))
        for number, generation in enumerate(generations)
    ]
    return parts, ignored


def body_of(
    parts: Sequence[Part], responses: Sequence[pb.CompleteResponse]
) -> Mapping[str, object]:
    """The body of the response once every part has its own. Raises: GenerationCancelled."""
    shapes = [shape for _, shape in parts]
    origin = origin_of(responses[0].started, parts[0][0])
    return whole(origin, list(zip(shapes, responses, strict=True)))


def origin_of(started: pb.Started, request: pb.GenerateRequest) -> Origin:
    """Which generation it is."""
    return Origin(
        request_id=started.request_id,
        created=started.create_time.seconds or int(time.time()),
        model=request.model,
        version=f"{started.model}@{started.model_version}",
        service_tier=tier_name(request),
    )


def _text_shape(
    request: CompletionRequest, generation: pb.GenerateRequest, number: int
) -> TextShape:
    outputs = generation.n or 1
    return TextShape(
        outputs=outputs,
        first_index=number * outputs,
        logprobs=request.logprobs is not None,
        echo=bool(request.echo),
        prompt=generation.prompt if generation.HasField("prompt") else None,
    )
