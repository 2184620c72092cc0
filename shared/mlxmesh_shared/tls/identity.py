"""The verified identity of a peer: the role in the URI of its certificate."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mlxmesh.common.v1.rules_pb2 import Role

__all__ = [
    "NOBODY",
    "ROLES",
    "SERVER_ROLES",
    "PeerIdentity",
    "Role",
    "peer_identity",
    "peer_spiffe_id",
    "server_name",
    "spiffe_id",
]

ROLES = tuple(name.removeprefix("ROLE_").lower() for name in Role.keys()[1:])
"""Every role, as spelled in certificates and file names."""
SERVER_ROLES = tuple(role for role in ROLES if role not in ("client", "admin"))
"""The roles of servers; a certificate of another role is never accepted from a server."""
_TRUST_DOMAIN = "spiffe://mlxmesh/"
# gRPC sets it if the certificate has exactly one URI and that is a SPIFFE id.
_PEER_ID = "peer_spiffe_id"


class PeerIdentity(NamedTuple):
    """Who the peer of a call is, by its certificate."""

    spiffe_id: str
    """Empty if it presented no certificate, or one without a SPIFFE id."""
    role: Role.ValueType


NOBODY = PeerIdentity("", Role.ROLE_UNSPECIFIED)
"""A peer without a certificate."""


def spiffe_id(role: str) -> str:
    """The URI in a role's certificate."""
    return _TRUST_DOMAIN + role


def server_name(role: str) -> str:
    """The DNS name in a server's certificate, which callers check instead of its address."""
    return f"{role}.mlxmesh"


def peer_identity(auth_context: Mapping[str, Iterable[bytes]]) -> PeerIdentity:
    """The identity of the peer, as verified in gRPC's handshake."""
    identity = peer_spiffe_id(auth_context)
    name = identity.removeprefix(_TRUST_DOMAIN)
    known = identity.startswith(_TRUST_DOMAIN) and name in ROLES
    return PeerIdentity(
        identity, Role.Value(f"ROLE_{name.upper()}") if known else Role.ROLE_UNSPECIFIED
    )


def peer_spiffe_id(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """The peer's SPIFFE id, as verified in gRPC's handshake; empty without a certificate."""
    return next(iter(auth_context.get(_PEER_ID, ())), b"").decode(errors="replace")
