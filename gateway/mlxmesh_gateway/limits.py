"""What the gateway lets in: where it may listen, for how long a call may run, what is passed on."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from mlxmesh_shared.settings import SettingsError

FORWARDED_METADATA = frozenset({"traceparent", "tracestate", "x-request-id"})
"""Metadata that services get to see; everything else ends at the gateway."""

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Deadlines:
    """The deadlines that calls get, in seconds."""

    default_s: float
    max_s: float

    def timeout_s(self, remaining_s: float | None, *, lasting: bool = False) -> float:
        """What a call may take: what its client allows, never above the maximum."""
        if remaining_s is None:
            return self.max_s if lasting else min(self.default_s, self.max_s)
        return min(remaining_s, self.max_s)


def forwarded(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """The part of a call's metadata that is passed on."""
    return tuple((key, value) for key, value in metadata or () if key in FORWARDED_METADATA)


def check_listen(listen: str, *, insecure_allowed: bool) -> None:
    """Raises SettingsError when others could reach the address, unless that is allowed.

    There is no TLS and no authentication here, so who can connect can do everything.
    """
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdigit():
        raise SettingsError(f"listen must be host:port, for example 127.0.0.1:50051, not {listen}")
    if insecure_allowed or is_loopback(host):
        return
    raise SettingsError(
        f"refusing to listen on {listen}: anyone who can reach it could use and change this mesh, "
        "for there is no TLS and no login. Listen on 127.0.0.1, or say --insecure-listen where the "
        "network itself is protected."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
