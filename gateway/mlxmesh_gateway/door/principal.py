"""Who makes a public call, made once at the edge from verified evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mlxmesh_shared.rpc.caller import owner_id


class Kind(Enum):
    """How a principal was verified. Keys and users come with the access service."""

    ANONYMOUS = "anonymous"
    CERTIFICATE = "certificate"
    KEY = "key"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The caller of a public call.

    What the caller merely claims subdivides what was verified, and never extends it.
    """

    identity: str
    """Verified: the SPIFFE id of the certificate; empty without one."""
    claimed_name: str
    """Unverified: 1 to 128 of A-Z a-z 0-9 . _ : -; empty if the caller claims none."""
    host: str
    """The host of the connection."""

    @property
    def kind(self) -> Kind:
        return Kind.CERTIFICATE if self.identity else Kind.ANONYMOUS

    @property
    def known(self) -> bool:
        """Whether anything tells it from other callers of its host."""
        return bool(self.identity or self.claimed_name)

    @property
    def id(self) -> str:
        """Owns what its calls start; independent of the address, which a client may change."""
        return owner_id(self.identity, self.claimed_name)

    @property
    def share(self) -> str:
        """The name that limits and fair shares count; callers without a name share a host's."""
        return self.claimed_name or self.host
