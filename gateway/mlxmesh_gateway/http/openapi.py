"""The OpenAPI document of the HTTP port, made from its routes and the schemas of their requests.

Source: OpenAPI Specification 3.1.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute, Route

from mlxmesh_gateway.http.endpoint import Endpoint

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"apiKey": []}]
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_JSON = "application/json"
_FORM = "multipart/form-data"


class Described(NamedTuple):
    """What a route says of itself."""

    paths: dict[str, dict[str, Any]]
    """Operations by path and verb."""
    schemas: dict[str, Any]
    """By name."""


@runtime_checkable
class DescribedRoute(Protocol):
    """A route of many paths."""

    def described(self) -> Described:
        """All of its paths."""
        ...


def openapi_document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The document for those routes that are edges'."""
    endpoints = list(_endpoints(routes))
    classes = {one.request for _, one in endpoints if one.request is not None}
    ordered = sorted(classes, key=lambda cls: cls.__name__)
    names, schemas = models_json_schema(
        [(cls, "validation") for cls in ordered],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for route, endpoint in endpoints:
        path = _PARAMETER.sub(r"{\1}", route.path)
        for verb in sorted((route.methods or set()) - {"HEAD"}):
            cls = endpoint.request
            body = names[cls, "validation"] if cls is not None else None
            paths.setdefault(path, {})[verb.lower()] = _operation(route, endpoint, body)
    components = dict(schemas.get("$defs", {}))
    for more in (route.described() for route in routes if isinstance(route, DescribedRoute)):
        paths.update(more.paths)
        components.update(more.schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlxmesh", "version": version("mlxmesh")},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": components,
            "securitySchemes": _SCHEMES,
            "responses": {"Error": {"description": "An error in the protocol's own shape."}},
        },
        "security": _SECURITY,
    }


def _endpoints(routes: Iterable[BaseRoute]) -> Iterator[tuple[Route, Endpoint]]:
    for route in routes:
        if isinstance(route, Route) and isinstance(route.endpoint, Endpoint):
            yield route, route.endpoint


def _operation(route: Route, endpoint: Endpoint, body: Any) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "responses": {
            "200": {"description": "The answer."},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        kind = _FORM if endpoint.streams_body else _JSON
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": body}}}
    return operation
