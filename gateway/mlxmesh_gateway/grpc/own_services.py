"""The services of the gateway itself, for calls that came by other protocols than gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.door.limits import Deadlines
from mlxmesh_gateway.forwarding.routes import Policy, Route
from mlxmesh_gateway.grpc.entrance import act_as
from mlxmesh_shared.errors import DeadlineExceeded, Internal, MeshError
from mlxmesh_shared.rpc.access_log import first_error, redacted_trace
from mlxmesh_shared.rpc.error_status import from_rpc_error
from mlxmesh_shared.rpc.requests import RequestParser
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.tls.identity import Role
from mlxmesh_shared.tls.method_access import declared_rules

_log = logging.getLogger(__name__)

OWN = "gateway"
"""The backend of routes that no other process serves."""
_CLIENTS = frozenset((Role.ROLE_CLIENT, Role.ROLE_ADMIN))

Servicers = Iterable[tuple[ServiceDescriptor, Any]]
"""Services, each with its servicer."""
Behaviour = Callable[[Any, Any], Any]


class ServesCalls(Protocol):
    """The door."""

    async def serve(self, call: PublicCall) -> bytes | None:
        """As of Door."""
        ...


class OwnServices:
    """Serves the gateway's own methods, and passes all other calls to the door.

    Calls have been let in by their edge; requests are checked here, as the gRPC server would.
    """

    def __init__(
        self, servicers: Servicers, door: ServesCalls, *, deadlines: Callable[[], Deadlines]
    ) -> None:
        self._door = door
        self._deadlines = deadlines
        services = list(servicers)
        self.routes = tuple(route for service, _ in services for route in _routes(service))
        """The methods that clients and administrators may call."""
        self._behaviours: dict[str, Behaviour] = {
            f"/{service.full_name}/{method.name}": getattr(servicer, method.name)
            for service, servicer in services
            for method in service.methods
        }
        self._parser = RequestParser(Validator.for_services(*(one for one, _ in services)))

    async def serve(self, call: PublicCall) -> bytes | None:
        """As of Door."""
        route = call.route
        if route.backend != OWN:
            return await self._door.serve(call)
        timeout_s = None  # a watch has none of its own
        if call.remaining_s is not None or not route.policy.lasting:
            timeout_s = self._deadlines().timeout_s(call.remaining_s)
        act_as(call.principal)
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                return await self._answered(call, OwnContext(call))
        except TimeoutError as error:
            if deadline.expired():
                raise DeadlineExceeded("the deadline passed before the end of the call") from None
            raise _known(route.path, error) from None
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        except MeshError:
            raise
        except Exception as error:  # noqa: BLE001 - a client gets no more than an id
            raise _known(route.path, error) from None

    async def _answered(self, call: PublicCall, context: OwnContext) -> bytes | None:
        request = await self._parser.parse(
            call.route.request_class, call.request, lambda: call.principal.share
        )
        answer = self._behaviours[call.route.path](request, context)
        if not call.route.streams:
            return (await answer).SerializeToString()
        if not hasattr(answer, "__aiter__"):
            await answer  # it writes to the context
            return None
        async with contextlib.aclosing(answer):
            async for response in answer:
                await context.write(response)
        return None


class OwnContext:
    """Has the part of gRPC's `ServicerContext` that the gateway's servicers use."""

    def __init__(self, call: PublicCall) -> None:
        self._call = call

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._call.metadata

    def time_remaining(self) -> float | None:
        return self._call.remaining_s

    def peer(self) -> str:
        return self._call.principal.host

    def write(self, response: Message) -> Awaitable[None]:
        return self._call.write(response.SerializeToString())


def _routes(service: ServiceDescriptor) -> Iterator[Route]:
    rules = dict(declared_rules(service))
    methods: Iterable[MethodDescriptor] = service.methods
    for method in methods:
        path = f"/{service.full_name}/{method.name}"
        if not method.client_streaming and _CLIENTS & set(rules[path].gateway_roles):
            yield Route(
                path=path,
                backend=OWN,
                request_class=GetMessageClass(method.input_type),
                streams=method.server_streaming,
                policy=Policy(lasting=method.server_streaming),
            )


def _known(method: str, raised: Exception) -> MeshError:
    error = first_error(raised)
    if isinstance(error, MeshError):
        return error
    short_id = secrets.token_hex(4)
    _log.error("%s failed, id %s\n%s", method, short_id, redacted_trace(error))
    return Internal(f"internal error; see the log of the gateway, id {short_id}")
