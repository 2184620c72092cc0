"""Who makes a public call: one identity for shares, ownership, access and audit."""

from dataclasses import dataclass
from enum import Enum

from mlxmesh_shared.rpc.caller import Metadata, caller_id, claim_in, owner_id
from mlxmesh_shared.tls.identity import PeerIdentity


class PrincipalKind(Enum):
    """How the identity of a principal was verified."""

    ANONYMOUS = "anonymous"
    CERTIFICATE = "certificate"
    # These two come with access control; nothing creates them yet.
    KEY = "key"
    USER = "user"


@dataclass(frozen=True, kw_only=True)
class Principal:
    """The identity behind a call, made once per call."""

    id: str
    """What fair shares count by: the claimed name, else the host of the peer."""
    kind: PrincipalKind
    identity: PeerIdentity
    """The verified part, which roles come from; empty for ANONYMOUS."""
    owner: str
    """The owner of what the call starts: the verified identity, and the claim within it."""
    tenant: str = ""

    @property
    def roles(self) -> frozenset[int]:
        """The verified roles; none for a certificate without a role of the mesh."""
        return frozenset({self.identity.role} if self.identity.role else ())


def authenticate(identity: PeerIdentity, metadata: Metadata | None, *, peer: str) -> Principal:
    """The principal with a verified identity, an unverified claim in the metadata, and an address.

    The claim never changes the verified identity or the roles.
    Raises: InvalidArgument when the claim is not a legal name.
    """
    claim = claim_in(metadata)
    verified = identity.spiffe_id
    return Principal(
        id=caller_id(claim, peer),
        kind=PrincipalKind.CERTIFICATE if verified else PrincipalKind.ANONYMOUS,
        identity=identity,
        owner=owner_id(verified, claim),
    )
