"""What is sent to the issuer, and the secrets of one sign-in.

Source: RFC 7636 (PKCE), OpenID Connect Core 1.0, section 3.1.2.1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit, urlunsplit

from mlxmesh_shared.encryption import Cipher

_PURPOSE = "pending sign-ins"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInSecrets:
    """What only this service knows of a sign-in that has begun."""

    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    code_verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)

    @property
    def code_challenge(self) -> str:
        """What the issuer may know of the code verifier."""
        digest = hashlib.sha256(self.code_verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def encrypted(self, state: str) -> bytes:
        """To be stored: readable only for who brings the state, of which only a hash is stored."""
        content = json.dumps([self.nonce, self.code_verifier]).encode()
        return Cipher(state.encode(), _PURPOSE).encrypt(content)

    @classmethod
    def decrypted(cls, state: str, encrypted: bytes) -> SignInSecrets | None:
        """What was stored with this state; None with another one."""
        content = Cipher(state.encode(), _PURPOSE).decrypt(encrypted)
        if content is None:
            return None
        nonce, code_verifier = json.loads(content)
        return cls(nonce=nonce, code_verifier=code_verifier)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """An authorization code to be exchanged for an ID token."""

    code: str = field(repr=False)
    code_verifier: str = field(repr=False)
    redirect_uri: str


def new_state() -> str:
    """The name of a sign-in, which nobody can guess."""
    return secrets.token_urlsafe(32)


def state_sha256(state: str) -> bytes:
    """What is stored of a state."""
    return hashlib.sha256(state.encode()).digest()


def authorization_url(
    endpoint: str, *, client_id: str, redirect_uri: str, state: str, secrets: SignInSecrets
) -> str:
    """The URL to open in a browser."""
    query = urlencode(
        {
            "response_type": "code",
            "scope": "openid profile email",
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "state": state,
            "nonce": secrets.nonce,
            "code_challenge": secrets.code_challenge,
            "code_challenge_method": "S256",
        }
    )
    parts = urlsplit(endpoint)
    return urlunsplit(parts._replace(query="&".join(filter(None, [parts.query, query]))))
