"""The steps of a public call before its relay, in their order.

authenticate (principal.py), authorize, admit, check rules, set the deadline. The gRPC server's
CallGuard authorizes and admits a call before it reads the body, so its relay only prepares calls.
A transport without such a guard calls authorize() and admit() itself, with the same objects.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from opentelemetry.context import get_current

from mlxmesh_gateway.door.call import Incoming, PublicCall
from mlxmesh_gateway.door.limits import HEDGE_MS, Deadlines, Metadata, forwarded, hedge_after_s
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.door.spans import describe_request
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter, acquire_slot
from mlxmesh_shared.rpc.requests import RequestParser
from mlxmesh_shared.telemetry.tracing import metadata_of
from mlxmesh_shared.tls.method_access import MethodAccess


def authorize(
    access: MethodAccess | None, method: str, principal: Principal, *, peer: Callable[[], str]
) -> None:
    """Checks the roles of the principal; without `access`, every principal may call.

    Raises: Unauthenticated, PermissionDenied, MethodNotFound.
    """
    if access is not None:
        access.check_identity(method, principal.identity, peer=peer)


@contextmanager
def admit(
    limiter: ConcurrencyLimiter,
    principal: Principal,
    *,
    on_refused: Callable[[int], None] = lambda _: None,
    now_s: Callable[[], float] = time.monotonic,
) -> Generator[None]:
    """Holds one of the principal's slots during the body. Raises: TooManyRequests."""
    acquire_slot(limiter, principal.id, now_s(), on_refused)
    try:
        yield
    finally:
        limiter.release(principal.id, now_s())


class CallPreparation:
    """Checks the rules of a request and sets its deadline."""

    def __init__(self, parser: RequestParser, deadlines: Deadlines) -> None:
        self._parser = parser
        self.deadlines = deadlines
        """Applies to calls prepared from now on."""

    async def prepare(self, incoming: Incoming) -> PublicCall:
        """The call to relay. Raises: MalformedMessage, InvalidArgument, FeatureNotSupported."""
        route, principal = incoming.route, incoming.principal
        message = await self._parser.parse(
            route.request_class, incoming.request, lambda: principal.id
        )
        describe_request(message)
        request_id = route.policy.key(message)
        hedge_s = hedge_after_s(incoming.metadata) if route.policy.hedged else None
        if hedge_s is not None and request_id:
            raise InvalidArgument(
                f"{HEDGE_MS} cannot be combined with a request_id, since the generation would run"
                " twice to its end; omit one of them",
                field=HEDGE_MS,
            )
        return PublicCall(
            route=route,
            principal=principal,
            request=incoming.request,
            request_id=request_id,
            hedge_after_s=hedge_s,
            deadline_s=self._deadline_s(incoming),
            metadata=_forwarded(incoming),
        )

    def _deadline_s(self, incoming: Incoming) -> float:
        lasting = incoming.route.policy.lasting
        return time.monotonic() + self.deadlines.timeout_s(incoming.remaining_s, lasting=lasting)


def _forwarded(incoming: Incoming) -> Metadata:
    principal = incoming.principal
    return (
        *metadata_of(get_current()),
        *forwarded(incoming.metadata, caller=principal.id, owner=principal.owner),
    )
