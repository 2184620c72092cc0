"""The routes of the HTTP protocol."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from starlette.routing import Route

from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.kserve import http_handlers, methods
from mlxmesh_gateway.kserve.errors import error_body
from mlxmesh_gateway.kserve.http_body import GenerateBody, InferBody, parse_infer


def kserve_routes(parts: EdgeParts) -> Iterator[Route]:
    """All routes below /v2."""
    get = partial(parts.route, "GET", error_body=error_body)
    yield get(
        "/v2",
        method=methods.SERVER_METADATA,
        handle=http_handlers.server_metadata,
        summary="Name and version of the server.",
    )
    yield get(
        "/v2/health/live",
        method=methods.SERVER_LIVE,
        handle=http_handlers.server_live,
        summary="Whether the process answers.",
    )
    yield get(
        "/v2/health/ready",
        method=methods.SERVER_READY,
        handle=http_handlers.server_ready,
        summary="Whether the mesh can generate.",
    )
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        yield from _model_routes(parts, model)


def _model_routes(parts: EdgeParts, model: str) -> Iterator[Route]:
    route = partial(parts.route, error_body=error_body)
    yield route(
        "GET",
        model,
        method=methods.GET_MODEL,
        handle=http_handlers.model_metadata,
        summary="Versions and tensors of a model.",
    )
    yield route(
        "GET",
        f"{model}/ready",
        method=methods.GET_MODEL,
        handle=http_handlers.model_ready,
        summary="Whether a model can generate.",
    )
    yield route(
        "POST",
        f"{model}/infer",
        method=methods.COMPLETE,
        handle=http_handlers.infer,
        parse=parse_infer,
        summary="Generates one text from tensors.",
        request=InferBody,
    )
    yield route(
        "POST",
        f"{model}/generate",
        method=methods.COMPLETE,
        handle=http_handlers.generate,
        summary="Generates one text.",
        request=GenerateBody,
    )
    yield route(
        "POST",
        f"{model}/generate_stream",
        method=methods.GENERATE,
        handle=http_handlers.generate_stream,
        summary="Generates one text as server-sent events.",
        request=GenerateBody,
    )
