"""What every HTTP edge makes its routes with."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import Route

from mlxmesh_gateway.http.door import HttpDoor
from mlxmesh_gateway.http.endpoint import Endpoint, ErrorBody, Handle
from mlxmesh_gateway.http.exchange import KEEP_ALIVE_S, UnknownFields
from mlxmesh_gateway.http.schema import Schema
from mlxmesh_gateway.http.served import ServedRequests


@dataclass(frozen=True, kw_only=True)
class EdgeParts:
    """The parts that all edges share."""

    door: HttpDoor
    served: ServedRequests
    unknown_fields: UnknownFields
    keep_alive_s: float = KEEP_ALIVE_S

    def route(
        self,
        verb: str,
        path: str,
        *,
        method: str,
        handle: Handle,
        error_body: ErrorBody,
        summary: str = "",
        request: type[Schema] | None = None,
    ) -> Route:
        """A route; method: of the contracts, which decides who may make such requests.

        summary, request: what it does and the schema of its body, for the OpenAPI document.
        """
        endpoint = Endpoint(
            self.door,
            method,
            handle,
            error_body,
            route=path,
            unknown_fields=self.unknown_fields,
            served=self.served,
            keep_alive_s=self.keep_alive_s,
            has_body=verb == "POST",
            summary=summary,
            request=request,
        )
        return Route(path, endpoint, methods=[verb])
