"""What every HTTP edge makes its routes with."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import Route

from mlxmesh_gateway.http.door import HttpDoor
from mlxmesh_gateway.http.endpoint import Endpoint, ErrorBody, Handle
from mlxmesh_gateway.http.exchange import UnknownFields
from mlxmesh_gateway.http.served import ServedRequests


@dataclass(frozen=True, kw_only=True)
class EdgeParts:
    """The parts that all edges share."""

    door: HttpDoor
    served: ServedRequests
    unknown_fields: UnknownFields

    def route(
        self, verb: str, path: str, *, method: str, handle: Handle, error_body: ErrorBody
    ) -> Route:
        """A route; method: of the contracts, which decides who may make such requests."""
        endpoint = Endpoint(
            self.door,
            method,
            handle,
            error_body,
            route=path,
            unknown_fields=self.unknown_fields,
            served=self.served,
            has_body=verb == "POST",
        )
        return Route(path, endpoint, methods=[verb])
