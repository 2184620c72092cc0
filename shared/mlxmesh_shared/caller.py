"""Who makes a call: the name by which places are shared between callers."""

import re
from collections.abc import Iterable
from typing import Any, Protocol
from urllib.parse import unquote

from mlxmesh_shared.errors import InvalidArgument

CALLER_METADATA = "mlxmesh-caller"
_LEGAL = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ILLEGAL_CHARACTER = re.compile(r"[^A-Za-z0-9._:-]")


class Call(Protocol):
    """What of a call tells who makes it."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...
    def peer(self) -> str: ...


def caller_of(call: Call | Any) -> str:
    """The name that the call brings, else its peer's host.

    Raises: InvalidArgument when the name is not 1 to 128 of A-Z a-z 0-9 . _ : -
    """
    for key, value in call.invocation_metadata() or ():
        if key == CALLER_METADATA:
            return _checked(value)
    return host_of(call.peer())


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
