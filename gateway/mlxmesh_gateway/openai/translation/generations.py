"""Bodies of requests as generations, and results as bodies of responses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.schema import read_request
from mlxmesh_gateway.openai.chat_schema import ChatRequest
from mlxmesh_gateway.openai.completion_schema import CompletionRequest
from mlxmesh_gateway.openai.convert import includes_usage
from mlxmesh_gateway.openai.errors import (
    ErrorBody,
    chat_error_body,
    completion_error_body,
    response_error_body,
)
from mlxmesh_gateway.openai.parts import body_of, chat_part, text_parts
from mlxmesh_gateway.openai.responses import convert
from mlxmesh_gateway.openai.responses.objects import ResponseFacts
from mlxmesh_gateway.openai.responses.plan import new_facts, planned
from mlxmesh_gateway.openai.responses.schema import ResponseRequest
from mlxmesh_shared.errors import FeatureNotSupported

Body = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Translated:
    """A generation, and the paths of what is ignored in its request."""

    generation: pb.GenerateRequest
    ignored: list[str]


class Endpoint(Protocol):
    """A path whose requests are generations."""

    error_body: ErrorBody

    def translate(self, body: Body, *, refuse_unknown: bool) -> Translated:
        """Raises: InvalidArgument, FeatureNotSupported."""
        ...

    def render(self, body: Body, complete: pb.CompleteResponse) -> Mapping[str, object]:
        """The body of the response to a request that was translated before.

        Raises: GenerationCancelled.
        """
        ...


class Chats:
    """Satisfies Endpoint: /v1/chat/completions."""

    error_body = staticmethod(chat_error_body)

    def translate(self, body: Body, *, refuse_unknown: bool) -> Translated:
        request, unknown = read_request(ChatRequest, body, refuse_unknown=refuse_unknown)
        _refuse_stream(request.stream)
        includes_usage(request)
        (generation, _), ignored = chat_part(request)
        return Translated(generation=generation, ignored=[*unknown, *ignored])

    def render(self, body: Body, complete: pb.CompleteResponse) -> Mapping[str, object]:
        part, _ = chat_part(read_request(ChatRequest, body)[0])
        return body_of([part], [complete])


class Completions:
    """Satisfies Endpoint: /v1/completions."""

    error_body = staticmethod(completion_error_body)

    def translate(self, body: Body, *, refuse_unknown: bool) -> Translated:
        request, unknown = read_request(CompletionRequest, body, refuse_unknown=refuse_unknown)
        _refuse_stream(request.stream)
        includes_usage(request)
        parts, ignored = text_parts(request)
        if len(parts) > 1:
            raise FeatureNotSupported(
                "prompt with several texts is not supported in a batch: send a request for each",
                field="prompt",
            )
        return Translated(generation=parts[0][0], ignored=[*unknown, *ignored])

    def render(self, body: Body, complete: pb.CompleteResponse) -> Mapping[str, object]:
        parts, _ = text_parts(read_request(CompletionRequest, body)[0])
        return body_of(parts, [complete])


class Responses:
    """Satisfies Endpoint: /v1/responses. The batch keeps the results, so none is retained."""

    error_body = staticmethod(response_error_body)

    def translate(self, body: Body, *, refuse_unknown: bool) -> Translated:
        asked, unknown = read_request(ResponseRequest, body, refuse_unknown=refuse_unknown)
        _refuse_stream(asked.stream)
        _refuse_retained(asked)
        generation, _, ignored = planned(asked, _facts(asked, ""))
        return Translated(generation=generation, ignored=[*unknown, *ignored])

    def render(self, body: Body, complete: pb.CompleteResponse) -> Mapping[str, object]:
        asked, _ = read_request(ResponseRequest, body)
        _, facts, _ = planned(asked, _facts(asked, complete.started.request_id))
        return convert.as_response(facts, complete)


def _facts(asked: ResponseRequest, request_id: str) -> ResponseFacts:
    digest = hashlib.sha256(request_id.encode()).hexdigest()
    return replace(new_facts(asked, f"resp_{digest[:48]}"), store=False)


def _refuse_stream(stream: bool | None) -> None:
    if stream:
        raise FeatureNotSupported(
            "stream is not supported in a batch: its results are whole", field="stream"
        )


def _refuse_retained(asked: ResponseRequest) -> None:
    for field in ("background", "store", "previous_response_id"):
        if getattr(asked, field):
            raise FeatureNotSupported(
                f"{field} is not supported in a batch: the responses of batches are in their"
                " output files only",
                field=field,
            )
    if asked.stream_options is not None:
        raise FeatureNotSupported(
            "stream_options are not supported in a batch: its results are whole",
            field="stream_options",
        )
