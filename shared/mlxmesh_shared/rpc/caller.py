"""Who makes a call: by what name places are shared, and to whom what it starts belongs.

The two differ where callers have no names: places are then shared between hosts, but a client may
come again from another address of its host, so that what it started belongs to all without a name.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.tls.identity import spiffe_id_of

CALLER_METADATA = "mlxmesh-caller"
OWNER_METADATA = "mlxmesh-owner"
"""Says within the mesh to whom a request belongs. Gateways set it, and drop a client's own."""
_LEGAL = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ILLEGAL_CHARACTER = re.compile(r"[^A-Za-z0-9._:-]")


class Call(Protocol):
    """What of a call tells who makes it."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...
    def peer(self) -> str: ...
    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


def caller_of(call: Call | Any) -> str:
    """The name that the call brings, else its peer's host.

    Raises: InvalidArgument when the name is not 1 to 128 of A-Z a-z 0-9 . _ : -
    """
    return claimed_name(call) or host_of(call.peer())


def claimed_name(call: Call | Any) -> str:
    """The name that the call brings, empty when it brings none.

    Raises: InvalidArgument when it is not 1 to 128 of A-Z a-z 0-9 . _ : -
    """
    value = _metadata(call, CALLER_METADATA)
    return "" if value is None else _checked(value)


def owner_of(call: Call | Any) -> str:
    """To whom belongs what a client starts: its certificate's identity, and its name within that.

    Without a certificate the name alone; without a name too, all such clients are one owner.
    Raises: InvalidArgument as claimed_name().
    """
    return f"{spiffe_id_of(call.auth_context())}#{claimed_name(call)}"


def told_owner(call: Call | Any) -> str:
    """The owner that a gateway told; of a call that came past the gateways, owner_of()."""
    value = _metadata(call, OWNER_METADATA)
    return value if isinstance(value, str) else owner_of(call)


def _metadata(call: Call | Any, name: str) -> str | bytes | None:
    return next((value for key, value in call.invocation_metadata() or () if key == name), None)


def host_of(peer: str) -> str:
    """The host of gRPC's name for a peer, such as ipv4:127.0.0.1:50051; of a socket, the kind."""
    kind, _, address = peer.partition(":")
    host = unquote(address).rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind
    return _ILLEGAL_CHARACTER.sub("_", host)[:128] or "unknown"


def _checked(name: str | bytes) -> str:
    if isinstance(name, str) and _LEGAL.fullmatch(name):
        return name
    raise InvalidArgument(
        f"the metadata {CALLER_METADATA} must be 1 to 128 of A-Z a-z 0-9 . _ : -",
        field=CALLER_METADATA,
    )
