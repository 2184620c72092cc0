"""Addresses of back ends: what is legal, and where their keys are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from mlxmesh_shared.errors import IllegalState, InvalidArgument, ServiceUnavailable
from mlxmesh_shared.openai_upstream.address import NO_KEY, KeyReference
from mlxmesh_worker.connectors.port import Target

FIELD = "back_ends"
_KEY = "key="
_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": 80}


@dataclass(frozen=True, kw_only=True)
class Address:
    """A checked address. Its text contains no secret."""

    name: str
    url: str
    """Does not end with a slash. WebSockets have http and https too: they begin so."""
    host: str
    port: int
    key: KeyReference = NO_KEY

    @property
    def host_and_port(self) -> str:
        """As host:port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def described(self) -> str:
        """How messages name the back end."""
        return f"the back end {self.name} at {self.host_and_port}"

    async def read_key(self) -> str:
        """The back end's key; empty if it needs none. Raises: ServiceUnavailable."""
        try:
            return await self.key.read()
        except IllegalState as error:
            # Whoever sets it saves the jobs that wait for it.
            raise ServiceUnavailable(f"{self.described}: {error.message}") from None


def parse_address(target: Target, schemes: Sequence[str] = ("http", "https")) -> Address:
    """The address of a back end; host:port stands for the first scheme.

    Raises: InvalidArgument that says what is wrong with it, without its secrets.
    """
    text, _, fragment = target.address.partition("#")
    parts = _parts(target, text if "://" in text else f"{schemes[0]}://{text}", schemes)
    if fragment and not fragment.startswith(_KEY):
        raise _illegal(target, "may end with #key=env:NAME or #key=file:/PATH only")
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    return Address(
        name=target.name,
        url=f"{scheme}://{parts.netloc}{parts.path}".rstrip("/"),
        host=parts.hostname or "",
        port=parts.port or _DEFAULT_PORTS[scheme],
        key=KeyReference.parse(fragment.removeprefix(_KEY), field=FIELD),
    )


def _parts(target: Target, text: str, schemes: Sequence[str]) -> SplitResult:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _illegal(target, "is no URL") from None
    if not text.isprintable() or " " in text:
        raise _illegal(target, "is no URL")
    if parts.scheme not in schemes:
        raise _illegal(target, f"must begin with {' or '.join(f'{name}://' for name in schemes)}")
    if not host:
        raise _illegal(target, "names no host")
    if "@" in parts.netloc or "?" in text:
        raise _illegal(target, "must contain no credentials and no query; name the key by #key=")
    return parts


def _illegal(target: Target, what: str) -> InvalidArgument:
    return InvalidArgument(f"the address of the back end {target.name} {what}", field=FIELD)
