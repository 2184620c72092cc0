"""The token of an invitation: its id, its secret and the fingerprint of the server to ask. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field

from mlxmesh_shared.errors import InvalidArgument

PREFIX = "mlxjoin_"
ID_BYTES = 6
SECRET_BYTES = 20
FINGERPRINT_BYTES = 32


@dataclass(frozen=True)
class JoinToken:
    """What a host needs to join once."""

    invitation_id: str
    """12 hexadecimal digits."""
    secret: bytes = field(repr=False)
    """20 random bytes."""
    fingerprint: bytes
    """The SHA-256 of the DER certificate that the first host shows to hosts that join."""

    def encode(self) -> str:
        """The token as text, of letters, digits, hyphens and underscores."""
        content = bytes.fromhex(self.invitation_id) + self.secret + self.fingerprint
        return PREFIX + base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def parse_token(text: str) -> JoinToken:
    """The token that a text is. Raises: InvalidArgument without the text, which is a secret."""
    text = text.strip()
    content = _decoded(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else b""
    if len(content) != ID_BYTES + SECRET_BYTES + FINGERPRINT_BYTES:
        raise InvalidArgument(
            "this is not a whole token; copy all of what `mlxmesh hosts invite` printed, which"
            f" begins with {PREFIX}",
            field="token",
        )
    secret_end = ID_BYTES + SECRET_BYTES
    return JoinToken(
        invitation_id=content[:ID_BYTES].hex(),
        secret=content[ID_BYTES:secret_end],
        fingerprint=content[secret_end:],
    )


def hash_of(secret: bytes) -> str:
    """What is stored of a secret. It is random and long, so a plain hash cannot be reversed."""
    return hashlib.sha256(secret).hexdigest()


def _decoded(text: str) -> bytes:
    padded = text + "=" * (-len(text) % 4)
    try:
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
