"""Which redirect URIs may be used, by those in the settings.

Source: RFC 8252 section 7.3 (ports of native applications), RFC 9700 section 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_LEGAL = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?[]@!$&'()*+,;=%"
)


def is_allowed(uri: str, allowed: Iterable[str]) -> bool:
    """Whether a redirect URI is one of the allowed ones, or a path or query below one of them.

    Scheme, host and port must be equal; an allowed URI of a loopback host without a port allows all
    of its ports.
    """
    wanted = _parsed(uri)
    return wanted is not None and any(_is_below(wanted, each) for each in map(_parsed, allowed))


def is_legal(uri: str) -> bool:
    """Whether a URI may be in the settings: https, or http on a loopback host."""
    return _parsed(uri) is not None


def is_loopback(host: str | None) -> bool:
    """Whether a host of a URL is this machine."""
    return host in _LOOPBACK


def _parsed(uri: str) -> SplitResult | None:
    """The parts of a URI that all software reads in the same way; None for any other."""
    if not _LEGAL.issuperset(uri):
        return None
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return None
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
    segments = parts.path.lower().replace("%2e", ".").split("/")
    plain = "@" not in parts.netloc and ".." not in segments and "." not in segments
    return parts if secure and parts.hostname and plain and port != 0 else None


def _is_below(wanted: SplitResult, allowed: SplitResult | None) -> bool:
    if allowed is None or (wanted.scheme, wanted.hostname) != (allowed.scheme, allowed.hostname):
        return False
    any_port = allowed.port is None and is_loopback(allowed.hostname)
    if not any_port and _port(wanted) != _port(allowed):
        return False
    if allowed.query:
        return (wanted.path, wanted.query) == (allowed.path, allowed.query)
    folder = allowed.path.rstrip("/") + "/"
    return wanted.path == allowed.path or wanted.path.startswith(folder)


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)
