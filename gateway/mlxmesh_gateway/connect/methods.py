"""The methods that the Connect edge serves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mlxmesh_gateway.forwarding.routes import Route

_READS = ("Analyze", "Attach", "Count", "Get", "List", "Query", "Read", "Search", "Watch")


@dataclass(frozen=True, kw_only=True)
class ConnectMethod:
    """One method."""

    path: str
    """As on the wire: /package.Service/Method."""
    descriptor: MethodDescriptor
    request_class: type[Message]
    response_class: type[Message]
    streams: bool
    """Whether it answers with a stream."""

    @property
    def reads(self) -> bool:
        """Whether it changes nothing, so that it may be called by GET and without a CSRF token."""
        return self.descriptor.name.startswith(_READS)


def connect_methods(routes: Iterable[Route]) -> dict[str, ConnectMethod]:
    """The methods of these routes, by their paths."""
    return {route.path: _method(route) for route in routes}


def takes_a_stream(path: str) -> bool:
    """Whether there is a method at the path that takes a stream of requests."""
    found = _find(path)
    return found is not None and found.client_streaming


def _method(route: Route) -> ConnectMethod:
    descriptor = _find(route.path)
    assert descriptor is not None, "routes are made from descriptors"
    return ConnectMethod(
        path=route.path,
        descriptor=descriptor,
        request_class=route.request_class,
        response_class=GetMessageClass(descriptor.output_type),
        streams=route.streams,
    )


def _find(path: str) -> MethodDescriptor | None:
    service, _, name = path.removeprefix("/").partition("/")
    try:
        return descriptor_pool.Default().FindServiceByName(service).methods_by_name.get(name)
    except KeyError:
        return None
