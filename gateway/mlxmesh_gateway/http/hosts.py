"""Which Host headers the HTTP port answers, so that no web page can read it. Pure.

A page in a browser may have its own name resolve to a loopback address (DNS rebinding) and then ask
this port as if it were its own server; but its request still names the page's host. An address
cannot be rebound, so every address is answered.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


class AnsweredHosts:
    """The names that are answered, besides localhost and every IP address."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"localhost", *(name.lower() for name in names if name)}

    def answers(self, host: str) -> bool:
        """Whether a Host header, with or without its port, is answered."""
        name = _without_port(host.strip()).lower().rstrip(".")
        return name in self._names or _is_address(name)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.rpartition(":")
    return name if port.isdigit() and ":" not in name else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
