"""The steps of every public call: rules, deadline, forwarding, observation.

Before them, and before the request is read, the edge has an `Entrance` authenticate the caller
(which makes the Principal), authorize the method, check the quotas and count the call.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from google.protobuf.message import Message
from opentelemetry.context import get_current

from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.door.convert import (
    check_models,
    count_snapshot,
    counting_attached,
    metered_model,
    most_tokens,
    only_allowed,
    read_id,
    without_others,
)
from mlxmesh_gateway.door.limits import HEDGE_MS, Deadlines, forwarded, hedge_after_s
from mlxmesh_gateway.door.meter import CallMeter, Meter, NoMeter
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.forwarding.forwarder import ForwardedCall, Forwarder
from mlxmesh_gateway.forwarding.request_log import RequestLog
from mlxmesh_gateway.forwarding.routes import Route
from mlxmesh_gateway.forwarding.statuses import service_status
from mlxmesh_gateway.forwarding.telemetry import describe_caller, describe_request
from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_shared.errors import Cancelled, InvalidArgument, ServiceUnavailable
from mlxmesh_shared.rpc.requests import RequestParser
from mlxmesh_shared.telemetry.tracing import metadata_of

GET = "/mlxmesh.generation.v1.GenerationService/GetGeneration"


async def _nothing(_: Route) -> None: ...


class Door:
    """Serves public calls of every protocol."""

    def __init__(
        self,
        *,
        parser: RequestParser,
        forwarder: Forwarder,
        deadlines: Deadlines,
        meter: Meter | None = None,
        before: Callable[[Route], Awaitable[None]] = _nothing,
        requests: RequestLog | None = None,
    ) -> None:
        """before: is awaited for the route of each call before it is forwarded.

        requests: records the generations; by default none are.
        """
        self._parser = parser
        self._forwarder = forwarder
        self._meter = meter or NoMeter()
        self._before = before
        self._requests = requests
        self.deadlines = deadlines
        """Applies to calls served from now on."""

    async def serve(self, call: PublicCall) -> bytes | None:
        """The encoded response; None for a stream, which was written to the call.

        Raises: MalformedMessage, InvalidArgument, ModelNotAllowed, QuotaExceeded, and every error
        of the service.
        """
        forwarded_call, metered, model = await self._checked(call)
        try:
            with self._recorded(call, forwarded_call.used, model):
                await self._before(call.route)
                response = await self._forwarder.forward(forwarded_call)
            if metered is not None and call.route.path == GET and response is not None:
                count_snapshot(metered.used, response)
            return without_others(call.principal, call.route, response)
        except Cancelled as error:
            if service_status(error) is not None:
                raise
            # The client did not cancel, or this task would not run: the instance ended the call.
            raise ServiceUnavailable("the service ended the call; try again") from error
        finally:
            if metered is not None:
                metered.end()

    def _recorded(self, call: PublicCall, used: Used, model: str) -> AbstractContextManager[None]:
        if not model or self._requests is None:
            return nullcontext()
        return self._requests.recorded(
            used,
            owner=call.principal.id,
            protocol=call.protocol,
            method=call.route.path,
            model=model,
        )

    async def _checked(self, call: PublicCall) -> tuple[ForwardedCall, CallMeter | None, str]:
        """The call to forward, its meter, and the model of a generation that its client gets."""
        # The parsed message ends here: it takes several times the memory of the request, which a
        # long stream must not hold.
        principal, route = call.principal, call.route
        message = await self._parser.parse(
            route.request_class, call.request, lambda: principal.share
        )
        describe_caller(principal.id if principal.known else "")
        check_models(principal, route, message)
        describe_request(message)
        request_id = route.policy.key(message)
        after_s = hedge_after_s(call.metadata) if route.policy.hedged else None
        if after_s is not None and request_id:
            raise InvalidArgument(
                f"{HEDGE_MS} cannot be combined with a request_id, since the generation would run"
                " twice to its end; omit one of them",
                field=HEDGE_MS,
            )
        metered = self._metered(principal, message) if call.metered else None
        write = only_allowed(principal, route, call.write)
        if metered is not None and read_id(message):
            write = counting_attached(metered.used, write)
        forwarded_call = ForwardedCall(
            route=call.route,
            request=call.request,
            # Another principal's generation with the same request_id is another generation.
            key=f"{call.principal.id} {request_id}" if request_id else "",
            hedge_after_s=after_s,
            options=self._options(call),
            write=write,
            used=metered.used if metered is not None else Used(),
        )
        return forwarded_call, metered, metered_model(message) if call.metered else ""

    def _metered(self, principal: Principal, message: Message) -> CallMeter | None:
        """Begins to count a generation, or what is read of one; None for other requests."""
        max_tokens = most_tokens(message)
        if max_tokens is not None:
            return self._meter.begin(principal, max_tokens=max_tokens)
        request_id = read_id(message)
        return self._meter.attach(principal, request_id) if request_id else None

    def _options(self, call: PublicCall) -> Callable[[], dict[str, Any]]:
        """The timeout and metadata of a call to an instance that starts when this is called."""
        timeout_s = self.deadlines.timeout_s(call.remaining_s, lasting=call.route.policy.lasting)
        until_s = time.monotonic() + timeout_s
        principal = call.principal
        metadata = (
            *metadata_of(get_current()),
            *forwarded(call.metadata, principal),
        )
        return lambda: {"timeout": max(0.0, until_s - time.monotonic()), "metadata": metadata}
