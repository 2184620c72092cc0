"""What every HTTP edge makes its routes with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from starlette.routing import Route

from mlxmesh_gateway.http.body import ParseBody, parse_json
from mlxmesh_gateway.http.door import HttpDoor
from mlxmesh_gateway.http.endpoint import Endpoint, Handle
from mlxmesh_gateway.http.exchange import KEEP_ALIVE_S, UnknownFields
from mlxmesh_gateway.http.header_route import HeaderRoute
from mlxmesh_gateway.http.schema import Schema
from mlxmesh_gateway.http.served import ServedRequests
from mlxmesh_gateway.http.statuses import ErrorShape
from mlxmesh_shared.errors import MeshError

ErrorBody = Callable[[MeshError, int], object]
"""An error in a protocol's JSON, for a status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """What one response may do with tools."""

    tool_calls: int = 32
    """Unless the request says how many."""
    result_characters: int = 65_536
    """Of one result, as the model is given it."""
    default_deadline_s: float = 300
    max_deadline_s: float = 3600

    def deadline_s(self, asked_s: float | None) -> float:
        """How long a response may take, all in all."""
        return min(self.default_deadline_s if asked_s is None else asked_s, self.max_deadline_s)


@dataclass(frozen=True, kw_only=True)
class EdgeParts:
    """The parts that all edges share."""

    door: HttpDoor
    served: ServedRequests
    unknown_fields: UnknownFields
    keep_alive_s: float = KEEP_ALIVE_S
    protocol: str = "grpc"
    """As of PublicCall."""
    ending: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Ends, after the port, what the edges do beyond their requests."""
    tool_limits: ToolLimits = field(default_factory=ToolLimits)
    """Of responses for which the gateway calls tools."""

    def route(
        self,
        verb: str,
        path: str,
        *,
        method: str,
        handle: Handle,
        error_body: ErrorBody | ErrorShape,
        header: str = "",
        parse: ParseBody = parse_json,
        summary: str = "",
        request: type[Schema] | None = None,
        has_body: bool | None = None,
        streams_body: bool = False,
    ) -> Route:
        """A route; the other arguments are as of `endpoint`.

        header: only requests that have it are matched, in lower case; empty for all requests.
        has_body: by default, whether the verb is POST.
        """
        endpoint = self.endpoint(
            path,
            method=method,
            handle=handle,
            error_body=error_body,
            parse=parse,
            summary=summary,
            request=request,
            has_body=verb == "POST" if has_body is None else has_body,
            streams_body=streams_body,
        )
        if header:
            return HeaderRoute(path, endpoint, methods=[verb], header=header)
        return Route(path, endpoint, methods=[verb])

    def endpoint(
        self,
        path: str,
        *,
        method: str,
        handle: Handle,
        error_body: ErrorBody | ErrorShape,
        parse: ParseBody = parse_json,
        summary: str = "",
        request: type[Schema] | None = None,
        has_body: bool = True,
        streams_body: bool = False,
    ) -> Endpoint:
        """What answers the requests of a route.

        method: of the contracts, which decides who may make such requests.
        summary, request: what it does and the schema of its body, for the OpenAPI document.
        streams_body: whether the handler reads the body as it arrives, a form of any size.
        """
        return Endpoint(
            self.door,
            method,
            handle,
            _shape(error_body),
            route=path,
            unknown_fields=self.unknown_fields,
            served=self.served,
            keep_alive_s=self.keep_alive_s,
            has_body=has_body,
            parse=parse,
            summary=summary,
            request=request,
            streams_body=streams_body,
            protocol=self.protocol,
        )


def _shape(error_body: ErrorBody | ErrorShape) -> ErrorShape:
    if isinstance(error_body, ErrorShape):
        return error_body
    return ErrorShape(body=lambda error, status, _: error_body(error, status))
