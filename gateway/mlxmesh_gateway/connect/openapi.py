"""The methods of the Connect edge in the OpenAPI document, with schemas from the descriptors. Pure.

Source: OpenAPI 3.1.0, JSON Schema 2020-12, and the JSON mapping of Protocol Buffers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlxmesh_gateway.connect.methods import ConnectMethod
from mlxmesh_gateway.connect.schemas import MessageSchemas
from mlxmesh_gateway.http.openapi import Described
from mlxmesh_shared.tls.method_access import declared_rules, format_roles

_ERROR = {"default": {"$ref": "#/components/responses/Error"}}
_MESSAGE = {
    "name": "message",
    "in": "query",
    "schema": {"type": "string"},
    "description": "The request as JSON, percent-encoded.",
}


def described(methods: Iterable[ConnectMethod]) -> Described:
    """Their paths, and the schemas of their messages by name."""
    schemas = MessageSchemas()
    paths = {method.path: _operations(method, schemas) for method in methods}
    return Described(paths=paths, schemas=schemas.by_name)


def _operations(method: ConnectMethod, schemas: MessageSchemas) -> dict[str, Any]:
    request = schemas.of(method.descriptor.input_type)
    response = schemas.of(method.descriptor.output_type)
    kind = "text/event-stream" if method.streams else "application/json"
    shared = {
        "summary": _summary(method),
        "description": _who(method),
        "tags": [method.descriptor.containing_service.full_name],
        "responses": {
            "200": {"description": _answer(method), "content": {kind: {"schema": response}}},
            **_ERROR,
        },
    }
    body = {"required": True, "content": {"application/json": {"schema": request}}}
    operations: dict[str, Any] = {"post": {**shared, "requestBody": body}}
    if method.streams:
        operations["post"]["parameters"] = [_ACCEPT]
    if method.reads:
        parameters = [_MESSAGE, *([_ACCEPT] if method.streams else [])]
        operations["get"] = {**shared, "parameters": parameters}
    return operations


_ACCEPT = {
    "name": "accept",
    "in": "header",
    "required": True,
    "schema": {"const": "text/event-stream"},
}


def _summary(method: ConnectMethod) -> str:
    service = method.descriptor.containing_service.name
    return f"{method.descriptor.name} of {service}; docs/api.md describes it."


def _answer(method: ConnectMethod) -> str:
    if method.streams:
        return "An event for each message, as JSON; at the end one named end or error."
    return "The response."


def _who(method: ConnectMethod) -> str:
    rules = dict(declared_rules(method.descriptor.containing_service))[method.path]
    if rules.gateway_open:
        return "Open to everybody."
    return f"For callers with one of the roles {format_roles(rules.gateway_roles)}."
