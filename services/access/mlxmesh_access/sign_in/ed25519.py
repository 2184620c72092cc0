"""Makes Ed25519 keys and signs with them; the private key never leaves this module in plain."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable

from mlxmesh_access.sign_in.signing_keys import SigningKey, times_of_new_key
from mlxmesh_shared.access_tokens import ALGORITHM, TYPE, AccessClaims
from mlxmesh_shared.encryption import Cipher

_PURPOSE = "private keys of access tokens"


class KeyRing:
    """Makes keys that are encrypted with this host's secret, and signs with those."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = Cipher(secret, _PURPOSE)

    def new_key(self, now_ms: int, rotation_s: float) -> SigningKey:
        """A new key, to be stored."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from jwt.algorithms import OKPAlgorithm

        key_id = f"k_{secrets.token_hex(8)}"
        private_key = Ed25519PrivateKey.generate()
        jwk = OKPAlgorithm.to_jwk(private_key.public_key(), as_dict=True)
        signs_until_ms, expires_ms = times_of_new_key(now_ms, rotation_s)
        return SigningKey(
            key_id=key_id,
            public_jwk=json.dumps(jwk | {"kid": key_id, "alg": ALGORITHM, "use": "sig"}),
            encrypted_private_key=self._cipher.encrypt(private_key.private_bytes_raw()),
            created_ms=now_ms,
            signs_until_ms=signs_until_ms,
            expires_ms=expires_ms,
        )

    def usable(self, keys: Iterable[SigningKey]) -> list[SigningKey]:
        """Those whose private key this host's secret decrypts."""
        return [key for key in keys if self._private_bytes(key) is not None]

    def sign(self, key: SigningKey, claims: AccessClaims) -> str:
        """An access token. The key must be usable."""
        import jwt
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        private_bytes = self._private_bytes(key)
        if private_bytes is None:
            raise ValueError("the private key is encrypted with another host's secret")
        return jwt.encode(
            claims.model_dump(by_alias=True),
            Ed25519PrivateKey.from_private_bytes(private_bytes),
            algorithm=ALGORITHM,
            headers={"kid": key.key_id, "typ": TYPE},
        )

    def _private_bytes(self, key: SigningKey) -> bytes | None:
        return self._cipher.decrypt(key.encrypted_private_key)
