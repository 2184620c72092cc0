"""The route of the Connect edge: one for all methods, since there are more than a hundred."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from functools import cache
from typing import Any, NoReturn, Protocol

from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound

from mlxmesh_gateway.connect import handlers
from mlxmesh_gateway.connect.convert import keep_bytes
from mlxmesh_gateway.connect.errors import (
    UNARY_ERRORS,
    connect_status,
    error_object,
    stream_errors,
)
from mlxmesh_gateway.connect.methods import ConnectMethod, connect_methods, takes_a_stream
from mlxmesh_gateway.connect.openapi import described
from mlxmesh_gateway.connect.protocol import (
    Refused,
    Shape,
    as_mesh_headers,
    shape_of,
    with_encoding,
)
from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.http.endpoint import Endpoint, headers_of
from mlxmesh_gateway.http.exchange import send_json
from mlxmesh_gateway.http.openapi import Described
from mlxmesh_gateway.http.statuses import error_headers
from mlxmesh_shared.errors import MeshError, MethodNotFound, NotImplementedYet

_PACKAGE = "/mlxmesh."
_Scope = MutableMapping[str, Any]


class WithCredential(Protocol):
    """Makes the request whose credential counts. Raises: MeshError."""

    def __call__(self, scope: _Scope, *, safe: bool) -> _Scope: ...


class ConnectRoute(BaseRoute):
    """Takes every path of the form /mlxmesh.PACKAGE.Service/Method."""

    def __init__(self, parts: EdgeParts, with_credential: WithCredential) -> None:
        """with_credential: lets something else stand for a credential in a header."""
        self.methods: Mapping[str, ConnectMethod] = connect_methods(parts.door.routes.values())
        self._parts = parts
        self._with_credential = with_credential
        self._endpoint = cache(self._new_endpoint)

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        """As of BaseRoute."""
        path = scope["path"] if scope["type"] == "http" else ""
        is_method = path.startswith(_PACKAGE) and path.count("/") == 2
        return (Match.FULL if is_method else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """As of BaseRoute; nothing asks for it."""
        raise NoMatchFound(name, path_params)

    def described(self) -> Described:
        """As of DescribedRoute."""
        return described(self.methods.values())

    async def handle(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """As of BaseRoute."""
        try:
            method = self.methods.get(scope["path"])
            if method is None:
                _refuse_unknown(scope["path"])
            headers = headers_of(scope)
            shape = shape_of(scope["method"], headers, method)
            timed = as_mesh_headers(with_encoding(scope, headers, shape), headers)
            known = self._with_credential(timed, safe=method.reads)
        except Refused as refused:
            body = error_object(refused.error)
            await send_json(send, refused.status, body, refused.headers)
        except MeshError as error:
            await send_json(send, connect_status(error), error_object(error), error_headers(error))
        else:
            await self._endpoint(method.path, shape)(known, receive, send)

    def _new_endpoint(self, path: str, shape: Shape) -> Endpoint:
        method = self.methods[path]
        in_body = shape not in (Shape.UNARY_GET, Shape.EVENTS_GET)
        errors = UNARY_ERRORS
        match shape:
            case Shape.UNARY | Shape.UNARY_GET:
                handle = handlers.unary(method)
            case Shape.EVENTS | Shape.EVENTS_GET:
                handle = handlers.events(method)
            case Shape.STREAM_JSON | Shape.STREAM_PROTO:
                handle, errors = handlers.stream(method), stream_errors(shape.value)
        return self._parts.endpoint(
            path,
            method=path,
            handle=handle,
            error_body=errors,
            parse=keep_bytes,
            has_body=in_body,
        )


def _refuse_unknown(path: str) -> NoReturn:
    if takes_a_stream(path):
        raise NotImplementedYet(
            f"{path} takes a stream of requests, which HTTP clients cannot send here: use gRPC"
        )
    error = MethodNotFound("there is no such method here: GET /openapi.json lists them all")
    raise Refused(404, error)
