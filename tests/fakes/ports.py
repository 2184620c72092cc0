"""Ports for programs that are told one before they listen.

They lie below the ports that systems choose by themselves: meanwhile, connections and servers of
other tests get those.
"""

from __future__ import annotations

import itertools
import random
import socket

# Linux chooses from 32,768 on (/proc/sys/net/ipv4/ip_local_port_range), macOS from 49,152 on.
_FIRST, _COUNT = 15_000, 17_000
# Each process begins elsewhere, and goes on: what it was given is not given again soon.
_numbers = itertools.count(random.SystemRandom().randrange(_COUNT))


def free_port() -> int:
    """A port of this host that nothing uses at present, by TCP or by UDP."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """The same, in a row."""
    while True:
        first = _port(next(_numbers))
        ports = [first + place for place in range(count)]
        for _ in ports[1:]:
            next(_numbers)
        if all(map(_is_free, ports)):
            return ports


def _port(number: int) -> int:
    return _FIRST + number % _COUNT


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
