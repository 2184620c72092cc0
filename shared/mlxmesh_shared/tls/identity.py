"""Who a peer is: its role, as the URI of its certificate says it."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mlxmesh.common.v1.rules_pb2 import Role

ROLES = tuple(name.removeprefix("ROLE_").lower() for name in Role.keys()[1:])
"""Every role, as certificates and file names spell it."""
SERVER_ROLES = ("gateway", "generation", "model", "runtime", "engine")
"""The roles whose processes serve; a certificate of the others never passes for a server's."""
_TRUST_DOMAIN = "spiffe://mlxmesh/"
# gRPC sets it where the certificate has exactly one URI and that is a SPIFFE id.
_PEER_ID = "peer_spiffe_id"


class Caller(NamedTuple):
    """The peer of a call."""

    spiffe_id: str
    """Empty where it showed no certificate, or one without a SPIFFE id."""
    role: Role.ValueType


def spiffe_id(role: str) -> str:
    """The URI in a role's certificate."""
    return _TRUST_DOMAIN + role


def server_name(role: str) -> str:
    """The DNS name in a server's certificate, which its callers check whatever its address."""
    return f"{role}.mlxmesh"


def caller_of(auth_context: Mapping[str, Iterable[bytes]]) -> Caller:
    """The peer as gRPC's handshake has verified it."""
    identity = spiffe_id_of(auth_context)
    name = identity.removeprefix(_TRUST_DOMAIN)
    known = identity.startswith(_TRUST_DOMAIN) and name in ROLES
    return Caller(identity, Role.Value(f"ROLE_{name.upper()}") if known else Role.ROLE_UNSPECIFIED)


def spiffe_id_of(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """The peer's SPIFFE id as gRPC's handshake has verified it; empty without a certificate."""
    return next(iter(auth_context.get(_PEER_ID, ())), b"").decode(errors="replace")
