"""A public call, independent of its transport."""

import time
from dataclasses import dataclass

from mlxmesh_gateway.door.limits import Metadata
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.door.routes import Route


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A call as its transport received it."""

    route: Route
    request: bytes
    principal: Principal
    metadata: Metadata
    remaining_s: float | None
    """The time left until the client's deadline; None if it set none."""


@dataclass(frozen=True, kw_only=True)
class PublicCall:
    """A call that passed every check and may be relayed."""

    route: Route
    principal: Principal
    request: bytes
    request_id: str
    """Empty if the client set none."""
    hedge_after_s: float | None
    """When a second instance is asked beside the first; None for never."""
    deadline_s: float
    """On the monotonic clock."""
    metadata: Metadata
    """What is forwarded to services."""

    @property
    def method(self) -> str:
        """As on the wire: /package.Service/Method."""
        return self.route.path

    @property
    def size_bytes(self) -> int:
        """The size of the encoded request."""
        return len(self.request)

    @property
    def key(self) -> str:
        """What calls have in common that must reach the same instance; empty for most."""
        # Another owner's generation with the same request_id is another generation.
        return f"{self.principal.owner} {self.request_id}" if self.request_id else ""

    def remaining_s(self) -> float:
        """The time left now, never negative."""
        return max(0.0, self.deadline_s - time.monotonic())
