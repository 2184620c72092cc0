"""What an edge knows of a caller before the door has authenticated it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.tls.identity import PeerIdentity

_NAMES = ("authorization", "x-api-key")
_BEARER = "bearer "


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


def credential_in(pairs: Iterable[tuple[str, str | bytes]]) -> str:
    """The API key or access token in headers or metadata, with lower-case names; empty without one.

    Raises: InvalidArgument where one of the two headers is repeated: a proxy may check another one
    than the gateway takes.
    """
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in _NAMES or not isinstance(value, str):
            continue
        if name in found:
            raise InvalidArgument(f"the header {name} must not be repeated", field=name)
        found[name] = value
    bearer = found.get("authorization", "")
    if bearer[: len(_BEARER)].lower() == _BEARER:
        return bearer[len(_BEARER) :].strip()
    return found.get("x-api-key", "").strip()
