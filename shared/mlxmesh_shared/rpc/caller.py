"""Who makes a call, as limits count it and as what it starts is owned.

The two differ for callers without a name. Limits count them by host. An owner must not depend on
the address, which a client may change, so all callers without a name are one owner.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.tls.identity import peer_spiffe_id

CALLER_METADATA = "mlxmesh-caller"
OWNER_METADATA = "mlxmesh-owner"
"""The owner of a request within the mesh. Gateways set it, and drop a value from a client."""
ROLE_METADATA = "mlxmesh-role"
"""The role with which a gateway let a call through: `admin` or `client`. Gateways set it, and drop
a value from a client."""
USER_METADATA = "mlxmesh-user"
"""The user that the caller is; empty for a caller that is none. Gateways set it, and drop a value
from a client."""
AUTHENTICATION_METADATA = "mlxmesh-authentication"
"""`off` where a gateway's settings say that nobody has to authenticate. Gateways set it, and drop a
value from a client."""
HOST_METADATA = "mlxmesh-host"
"""The host from which a client called its gateway. Gateways set it, and drop a value from a
client."""
TEAM_METADATA = "mlxmesh-team"
"""The team of that user; empty without. Gateways set it, and drop a value from a client."""
MODELS_METADATA = "mlxmesh-models"
"""Patterns of the models that the caller may use, joined by MODELS_SEPARATOR; empty for all.
Gateways set it, and drop a value from a client."""
MODELS_SEPARATOR = ","
"""No pattern has one."""
ANONYMOUS = "anonymous"
_LEGAL = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ILLEGAL_CHARACTER = re.compile(r"[^A-Za-z0-9._:-]")


class Call(Protocol):
    """The part of a call's context that identifies its caller."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...
    def peer(self) -> str: ...
    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


def claimed_caller(call: Call | Any) -> str:
    """The name that the caller claims, else the host of its peer. Nothing verifies the name.

    Raises: InvalidArgument when the name is not 1 to 128 of A-Z a-z 0-9 . _ : -
    """
    return claimed_name(call) or peer_host(call.peer())


def claimed_name(call: Call | Any) -> str:
    """The name that the caller claims, unverified; empty when it claims none.

    Raises: InvalidArgument when it is not 1 to 128 of A-Z a-z 0-9 . _ : -
    """
    value = _metadata(call, CALLER_METADATA)
    return "" if value is None else checked_name(value)


def owner_of(call: Call | Any) -> str:
    """The owner of what this call starts: the verified identity, and the claimed name within it.

    Clients with neither a certificate nor a name are one owner.
    Raises: InvalidArgument as claimed_name().
    """
    return owner_id(peer_spiffe_id(call.auth_context()), claimed_name(call))


def owner_id(identity: str, name: str) -> str:
    """The owner with a verified identity and a claimed name; either may be empty."""
    return f"{identity}#{name}"


def forwarded_owner(call: Call | Any) -> str:
    """The owner that a gateway forwarded; owner_of() for a call that came through no gateway."""
    value = _metadata(call, OWNER_METADATA)
    return value if isinstance(value, str) else owner_of(call)


@dataclass(frozen=True)
class ForwardedCaller:
    """The caller of a gateway, as the gateway has verified it."""

    principal: str
    """Its verified id, for example user:ada, key:k_1a2b3c or spiffe://mlxmesh/admin; ANONYMOUS
    without one."""
    is_admin: bool
    user: str
    """Empty for a caller that is no user."""
    authentication_is_off: bool = False
    """Whether its gateway's settings say that nobody has to authenticate."""

    @property
    def is_anonymous(self) -> bool:
        """Whether nothing proves who it is."""
        return self.principal == ANONYMOUS

    @property
    def key_id(self) -> str:
        """The API key that it calls with; empty for a session or a certificate."""
        kind, _, name = self.principal.partition(":")
        return name if kind == "key" else ""


def forwarded_caller(call: Call | Any) -> ForwardedCaller:
    """The caller that a gateway forwarded. A call without a role is no admin's."""
    return ForwardedCaller(
        # What an owner claims as its name is no part of who it is.
        principal=forwarded_owner(call).partition("#")[0] or ANONYMOUS,
        is_admin=_metadata(call, ROLE_METADATA) == "admin",
        user=str(_metadata(call, USER_METADATA) or ""),
        authentication_is_off=_metadata(call, AUTHENTICATION_METADATA) == "off",
    )


@dataclass(frozen=True)
class ForwardedSubmitter:
    """The caller of a gateway whose work goes on after its call."""

    caller: ForwardedCaller
    owner: str
    """Owns the generations of the work."""
    share: str
    """The name that limits and fair shares count."""
    team: str
    """The user's team; empty without."""
    models: tuple[str, ...]
    """Patterns of the models that it may use; empty for all."""


def forwarded_submitter(call: Call | Any) -> ForwardedSubmitter:
    """The caller that a gateway forwarded, and what its work needs to act for it later.

    Raises: InvalidArgument as claimed_name().
    """
    models = str(_metadata(call, MODELS_METADATA) or "")
    return ForwardedSubmitter(
        caller=forwarded_caller(call),
        owner=forwarded_owner(call),
        share=claimed_caller(call),
        team=str(_metadata(call, TEAM_METADATA) or ""),
        models=tuple(filter(None, models.split(MODELS_SEPARATOR))),
    )


def came_through_gateway(call: Call | Any) -> bool:
    """Whether a gateway let a client's call through; else a process of the mesh made it."""
    return _metadata(call, ROLE_METADATA) is not None


def forwarded_host(call: Call | Any) -> str:
    """The caller's host that a gateway forwarded; that of the peer where it forwarded none."""
    value = _metadata(call, HOST_METADATA)
    return value if isinstance(value, str) else peer_host(call.peer())


def _metadata(call: Call | Any, name: str) -> str | bytes | None:
    return next((value for key, value in call.invocation_metadata() or () if key == name), None)


def peer_host(peer: str) -> str:
    """The host in gRPC's name of a peer, such as ipv4:127.0.0.1:50051; else the kind of name."""
    kind, _, address = peer.partition(":")
    host = unquote(address).rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind
    return legal_name(host)


def legal_name(host: str) -> str:
    """A host as a caller's name; "unknown" for an empty one."""
    return _ILLEGAL_CHARACTER.sub("_", host)[:128] or "unknown"


def checked_name(name: str | bytes) -> str:
    """The name that a caller claims. Raises: InvalidArgument when it is illegal."""
    if isinstance(name, str) and _LEGAL.fullmatch(name):
        return name
    raise InvalidArgument(
        f"the metadata {CALLER_METADATA} must be 1 to 128 of A-Z a-z 0-9 . _ : -",
        field=CALLER_METADATA,
    )
