"""What an edge knows of a caller before the door has authenticated it."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlxmesh_shared.tls.identity import PeerIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Where a call comes from, and what its caller presents."""

    certificate: PeerIdentity
    """Verified by TLS; without a certificate its spiffe_id is empty."""
    credential: str = field(default="", repr=False)
    """An API key or an access token, unverified; empty for a caller that presents none."""
    claimed_name: str = ""
    """Unverified: 1 to 128 of A-Z a-z 0-9 . _ : -; empty if the caller claims none."""
    host: str
    """The host of the connection."""
