"""Access tokens made by hand, independently of the library that verifies them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NOW_S = 1_800_000_000.25


def encoded(content: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def json_part(content: object) -> str:
    return encoded(json.dumps(content).encode())


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a valid token; a change to None removes one."""
    valid = {
        "iss": "mlxmesh/access",
        "aud": "mlxmesh",
        "sub": "ada",
        "sid": "s_1",
        "jti": "t_1",
        "iat": NOW_S,
        "nbf": NOW_S,
        "exp": NOW_S + 600,
        "role": "member",
        "team": "",
    }
    return {name: value for name, value in (valid | changes).items() if value is not None}


@dataclass(frozen=True)
class TokenSigner:
    """A signing key of an access service."""

    key_id: str = "k1"
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def header(self) -> dict[str, Any]:
        return {"alg": "EdDSA", "kid": self.key_id, "typ": "at+jwt"}

    @property
    def public_bytes(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    @property
    def jwk(self) -> dict[str, str]:
        key_type = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig"}
        return {**key_type, "kid": self.key_id, "x": encoded(self.public_bytes)}

    @property
    def jwks_json(self) -> str:
        return json.dumps({"keys": [self.jwk]})

    def token(
        self, payload: Mapping[str, Any] | None = None, header: Mapping[str, Any] | None = None
    ) -> str:
        return self.signed(json_part(header or self.header), json_part(payload or claims()))

    def signed(self, header: str, payload: str) -> str:
        signature = self.key.sign(f"{header}.{payload}".encode())
        return f"{header}.{payload}.{encoded(signature)}"
