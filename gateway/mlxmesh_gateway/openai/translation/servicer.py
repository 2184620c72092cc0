"""TranslationService: check, call, reply."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlxmesh.job.v1 import worker_pb2 as pb
from mlxmesh.job.v1.worker_pb2_grpc import TranslationServiceServicer
from mlxmesh_gateway.http.body import parse_json
from mlxmesh_gateway.http.statuses import http_status
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.error_status import from_failure

if TYPE_CHECKING:
    from mlxmesh_gateway.openai.translation.generations import Endpoint

SERVICE = "mlxmesh.job.v1.TranslationService"
EMBEDDINGS = "/v1/embeddings"


class TranslationServicer(TranslationServiceServicer):
    """Requests have passed the contract's rules."""

    def __init__(self, *, refuse_unknown: bool) -> None:
        """refuse_unknown: whether a field that no protocol has is an error."""
        self._refuse_unknown = refuse_unknown

    async def TranslateRequest(
        self, request: pb.TranslateRequestRequest, context: Any
    ) -> pb.TranslateRequestResponse:
        from mlxmesh_gateway.openai.translation import embeddings

        body = await parse_json(request.body_json.encode(), {})
        if request.endpoint == EMBEDDINGS:
            work, ignored = embeddings.translate(body, refuse_unknown=self._refuse_unknown)
            return pb.TranslateRequestResponse(embedding=work, ignored_fields=ignored)
        endpoint = _endpoint(request.endpoint)
        translated = endpoint.translate(body, refuse_unknown=self._refuse_unknown)
        return pb.TranslateRequestResponse(
            generation=translated.generation, ignored_fields=translated.ignored
        )

    async def RenderResponse(
        self, request: pb.RenderResponseRequest, context: Any
    ) -> pb.RenderResponseResponse:
        if request.HasField("failure"):
            return _failed(request.endpoint, from_failure(request.failure))
        body = await parse_json(request.body_json.encode(), {})
        try:
            return _response(200, _rendered(request, body))
        except MeshError as error:  # such as a generation that was cancelled
            return _failed(request.endpoint, error)


def _rendered(request: pb.RenderResponseRequest, body: dict[str, Any]) -> object:
    from mlxmesh_gateway.openai.translation import embeddings

    if request.endpoint == EMBEDDINGS:
        return embeddings.render(body, request.embedding)
    return _endpoint(request.endpoint).render(body, request.generation)


def _failed(endpoint: str, error: MeshError) -> pb.RenderResponseResponse:
    from mlxmesh_gateway.openai.errors import error_body

    shape = error_body if endpoint == EMBEDDINGS else _endpoint(endpoint).error_body
    status = http_status(error)
    return _response(status, shape(error, status))


def _response(status: int, body: object) -> pb.RenderResponseResponse:
    return pb.RenderResponseResponse(
        status_code=status, body_json=json.dumps(body, ensure_ascii=False)
    )


def _endpoint(path: str) -> Endpoint:
    # Not at the top: only a gateway with HTTP clients or batches needs the schemas.
    from mlxmesh_gateway.openai.translation.generations import Chats, Completions, Responses

    return {
        "/v1/chat/completions": Chats,
        "/v1/completions": Completions,
        "/v1/responses": Responses,
    }[path]()
