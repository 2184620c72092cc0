"""What a client presents to the gateway: an API key, or the access token of a session."""

import os
import string
from collections.abc import Awaitable, Callable, Sequence

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.host.host_port import is_loopback, split_host_port

API_KEY_VARIABLE = "MLXMESH_API_KEY"
MAX_KEY_CHARACTERS = 8192
"""Access tokens are longer than keys; gateways accept 16 KiB of metadata."""
_LEGAL_CHARACTERS = frozenset(string.ascii_letters + string.digits + string.punctuation)

KeySource = Callable[[], Awaitable[str]]
"""Returns the key or token for the next call; awaited before every call."""
ApiKey = str | KeySource


def chosen_key(api_key: ApiKey | None) -> ApiKey:
    """The given key, else that of MLXMESH_API_KEY; empty for none. Raises: InvalidArgument."""
    if api_key is None:
        return check_key(os.environ.get(API_KEY_VARIABLE, "").strip())
    return check_key(api_key) if isinstance(api_key, str) else api_key


def check_key(key: str) -> str:
    """The key, if it can be sent. Raises: InvalidArgument, which does not contain it."""
    if len(key) > MAX_KEY_CHARACTERS or not _LEGAL_CHARACTERS.issuperset(key):
        raise InvalidArgument(
            f"api_key must be at most {MAX_KEY_CHARACTERS:,} visible ASCII characters;"
            " copy it again, without spaces or line breaks",
            field="api_key",
        )
    return key


def check_encryption(addresses: Sequence[str]) -> None:
    """Raises: InvalidArgument when a key would leave this machine unencrypted."""
    for address in addresses:
        host, _ = split_host_port(address)
        if not is_loopback(host):
            raise InvalidArgument(
                f"refusing to send credentials to {address} without TLS: others on the network"
                " could read and use them; connect with TLS (tls=CertificateFiles(...), --ca), or"
                " allow it for a protected network (insecure_key=True, --insecure-key)",
                field="api_key",
            )


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    """The metadata that carries a key or token."""
    return (("authorization", f"Bearer {key}"),)
