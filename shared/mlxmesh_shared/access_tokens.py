"""Access tokens: the form of the JWTs that the access service signs, and their verification.

Source: RFC 7519 (JWT), RFC 7517 (JWK), RFC 8037 (Ed25519), RFC 8725 (best practices), RFC 9068
(`at+jwt`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlxmesh_shared.errors import Unauthenticated

if TYPE_CHECKING:
    from jwt import PyJWK

ALGORITHM = "EdDSA"
CURVE = "Ed25519"
TYPE = "at+jwt"
ISSUER = "mlxmesh/access"
AUDIENCE = "mlxmesh"
MAX_TOKEN_BYTES = 4096
MAX_CLOCK_SKEW_S = 30
"""How far the clocks of the access service and a gateway may differ."""

TokensValidFrom = Callable[[str], float | None]
"""A user's name to the time before which its tokens are refused, 0 for none; None if unknown."""

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_HEADER = {"alg", "kid", "typ"}
_CLAIMS = {
    "issuer": "iss",
    "audience": "aud",
    "user": "sub",
    "session_id": "sid",
    "token_id": "jti",
    "issued_s": "iat",
    "valid_from_s": "nbf",
    "expires_s": "exp",
}
_Text = Annotated[str, Field(min_length=1, max_length=128)]


class AccessClaims(BaseModel):
    """What an access token says of its bearer. Times are Unix times in seconds."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        alias_generator=lambda name: _CLAIMS.get(name, name),
    )

    issuer: Literal["mlxmesh/access"] = ISSUER
    audience: Literal["mlxmesh"] = AUDIENCE
    user: _Text
    session_id: _Text
    token_id: _Text
    issued_s: float
    valid_from_s: float
    expires_s: float
    role: Literal["member", "admin"]
    team: Annotated[str, Field(max_length=64)]


def may_be_access_token(credential: str) -> bool:
    """Whether a credential has the form of a JWT; API keys have another one."""
    return credential.startswith("eyJ") and credential.count(".") == 2


class AccessTokenVerifier:
    """Verifies access tokens against the public keys of the access service.

    `jwks_json` is a JSON Web Key Set, as in WatchPolicies and GetSignInOptions; "" has no keys.
    Raises: ValueError for a text that is no key set. Keys that are not Ed25519 are ignored.
    """

    def __init__(self, jwks_json: str) -> None:
        self._keys = _public_keys(jwks_json) if jwks_json else {}

    def knows_key(self, token: str) -> bool:
        """Whether the key that a token names is known; if not, newer keys may be on their way."""
        return _key_id(token) in self._keys

    def verify(
        self, token: str, now_s: float, *, tokens_valid_from: TokensValidFrom
    ) -> AccessClaims:
        """The claims of a valid token.

        Raises: Unauthenticated, which never quotes the token.
        """
        claims = _claims(self._payload(token))
        _check_times(claims, now_s)
        valid_from_s = tokens_valid_from(claims.user)
        if valid_from_s is None or claims.issued_s < valid_from_s:
            raise Unauthenticated("the session has ended: sign in again")
        return claims

    def _payload(self, token: str) -> Mapping[str, Any]:
        import jwt

        key = self._keys.get(_key_id(token))
        if key is None:
            raise Unauthenticated("the access token was signed with an unknown key: sign in again")
        try:
            # Times are checked below, by the caller's clock.
            return jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.PyJWTError:
            raise _invalid() from None


def _public_keys(jwks_json: str) -> dict[str, PyJWK]:
    import jwt

    try:
        listed = json.loads(jwks_json)["keys"]
        usable = [key for key in listed if (key["kty"], key.get("crv")) == ("OKP", CURVE)]
        return {key["kid"]: jwt.PyJWK(key, algorithm=ALGORITHM) for key in usable}
    except (KeyError, TypeError, ValueError, jwt.PyJWTError) as error:
        raise ValueError("not a JSON Web Key Set") from error


def _key_id(token: str) -> str:
    """The `kid` of a token whose header is exactly as the access service writes it."""
    import jwt

    if len(token) > MAX_TOKEN_BYTES or not _FORM.fullmatch(token):
        raise _invalid()
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise _invalid() from None
    if header.keys() != _HEADER or header["alg"] != ALGORITHM or header["typ"] != TYPE:
        raise _invalid()
    return header["kid"]


def _claims(payload: Mapping[str, Any]) -> AccessClaims:
    try:
        return AccessClaims.model_validate(payload, by_alias=True, by_name=False)
    except ValidationError:
        raise _invalid() from None


def _check_times(claims: AccessClaims, now_s: float) -> None:
    if now_s >= claims.expires_s + MAX_CLOCK_SKEW_S:
        raise Unauthenticated("the access token has expired: refresh the session")
    if max(claims.issued_s, claims.valid_from_s) > now_s + MAX_CLOCK_SKEW_S:
        raise Unauthenticated("the access token is not valid yet: compare the hosts' clocks")


def _invalid() -> Unauthenticated:
    return Unauthenticated("the access token is not valid: sign in again")
