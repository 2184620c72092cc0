"""What the gateway lets in: for how long, how much for one caller, and what is passed on."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.forwarding.statuses import Metadata
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.rpc.caller import (
    AUTHENTICATION_METADATA,
    CALLER_METADATA,
    HOST_METADATA,
    MODELS_METADATA,
    MODELS_SEPARATOR,
    OWNER_METADATA,
    ROLE_METADATA,
    TEAM_METADATA,
    USER_METADATA,
)

FORWARDED_METADATA = frozenset({"x-request-id"})
"""Metadata that is forwarded to services unchanged; everything else is dropped."""
_LEGAL_VALUE = re.compile(r"[\x20-\x7e]{1,128}")
"""HTTP allows more; gRPC then fails the call."""

HEDGE_MS = "mlxmesh-hedge-ms"
"""Metadata that asks for a second try beside a slow first one; documented in generation.proto."""
MAX_HEDGE_MS = 60_000
_MAX_HEDGE_DIGITS = 9  # leading zeros are legal, thousands of them are not


@dataclass(frozen=True)
class Deadlines:
    """The default and the maximum deadline of calls, in seconds."""

    default_s: float
    max_s: float

    def timeout_s(self, remaining_s: float | None, *, lasting: bool = False) -> float:
        """What a call may take: what its client allows, never above the maximum."""
        if remaining_s is None:
            return self.max_s if lasting else min(self.default_s, self.max_s)
        return min(remaining_s, self.max_s)


def forwarded(metadata: Iterable[tuple[str, str | bytes]] | None, principal: Principal) -> Metadata:
    """The part of a call's metadata that is forwarded, and what the gateway says of its caller."""
    kept = (
        (key, value)
        for key, value in metadata or ()
        if key in FORWARDED_METADATA and isinstance(value, str) and _LEGAL_VALUE.fullmatch(value)
    )
    of_user = (
        (TEAM_METADATA, principal.team),
        (MODELS_METADATA, MODELS_SEPARATOR.join(principal.models)),
    )
    unchecked = ((AUTHENTICATION_METADATA, "off"),) if principal.authentication_is_off else ()
    return (
        *kept,
        (CALLER_METADATA, principal.share),
        (OWNER_METADATA, principal.id),
        (ROLE_METADATA, "admin" if principal.is_admin else "client"),
        (USER_METADATA, principal.user),
        (HOST_METADATA, principal.host),
        *(each for each in of_user if each[1]),
        *unchecked,
    )


def hedge_after_s(metadata: Iterable[tuple[str, str | bytes]] | None) -> float | None:
    """When a second instance is to be asked beside the first; None when that is not wanted.

    Raises: InvalidArgument for anything but a whole number of milliseconds from 1 to 60000.
    """
    for key, value in metadata or ():
        if key == HEDGE_MS:
            asked = value if isinstance(value, str) else ""
            digits = asked.isascii() and asked.isdigit() and len(asked) <= _MAX_HEDGE_DIGITS
            if not (digits and 1 <= int(asked) <= MAX_HEDGE_MS):
                raise InvalidArgument(
                    f"{HEDGE_MS} must be a whole number from 1 to {MAX_HEDGE_MS}, in milliseconds",
                    field=HEDGE_MS,
                )
            return int(asked) / 1000
    return None


def places_per_caller(max_concurrent_rpcs: int, asked: int | None) -> int:
    """As asked, else so many that an eighth of the places is left for others."""
    return asked or max_concurrent_rpcs - max_concurrent_rpcs // 8
