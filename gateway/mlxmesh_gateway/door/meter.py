"""What calls used, counted by the door."""

from __future__ import annotations

from typing import Protocol

from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.forwarding.used import Used


class CallMeter(Protocol):
    """Counts one generation."""

    used: Used
    """Filled in while the call runs."""

    def end(self) -> None:
        """Counts what the call has used; to be called once, at its end."""
        ...


class Meter(Protocol):
    """Charges generations to those who ask for them."""

    def begin(self, principal: Principal, *, max_tokens: int) -> CallMeter:
        """Charges the begin of a generation.

        max_tokens: the most that it may generate; 0 if it does not say.
        Raises: QuotaExceeded, with a time to retry.
        """
        ...

    def attach(self, principal: Principal, request_id: str) -> CallMeter | None:
        """Begins to count what is read of a generation that has begun before; None if it need not.

        Its `used` says which messages were read before.
        """
        ...


class NoMeter:
    """Satisfies Meter: counts nothing."""

    def begin(self, principal: Principal, *, max_tokens: int) -> CallMeter:
        return _Uncounted()

    def attach(self, principal: Principal, request_id: str) -> CallMeter | None:
        return None


class _Uncounted:
    def __init__(self) -> None:
        self.used = Used()

    def end(self) -> None: ...
