"""A public call, independent of the protocol that it came by."""

from __future__ import annotations

from dataclasses import dataclass

from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.forwarding.generate_stream import Write
from mlxmesh_gateway.forwarding.routes import Route
from mlxmesh_gateway.forwarding.statuses import Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicCall:
    """One call by a client, authenticated, authorized and counted by its edge."""

    route: Route
    principal: Principal
    request: bytes
    """The request message, encoded."""
    metadata: Metadata
    """The client's metadata or headers, with lower-case names."""
    remaining_s: float | None
    """Until the client's deadline; None without one."""
    write: Write
    """Sends one encoded message of a stream to the client; waits while the client is slow."""
    protocol: str = "grpc"
    """By which the client speaks: grpc, connect, openai, anthropic, kserve or mcp."""
    metered: bool = True
    """False for a call that its edge makes for itself: its client does not get the output."""
