"""Checks ID tokens, and derives the name of a user from one.

Source: OpenID Connect Core 1.0, section 3.1.3.7; RFC 8725.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mlxmesh_shared.access_tokens import MAX_CLOCK_SKEW_S
from mlxmesh_shared.errors import PermissionDenied, Unauthenticated

ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA")
MAX_ID_TOKEN_BYTES = 64 * 1024
_REQUIRED = ["iss", "sub", "aud", "exp", "iat", "nonce"]
_USER_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_MAX_SUBJECT_CHARACTERS = 255

Jwk = Mapping[str, Any]


class UnknownKey(Exception):
    """The token was signed with a key that is not among those given; there may be newer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What an ID token must say."""

    issuer: str
    client_id: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom an issuer has authenticated."""

    issuer: str
    subject: str
    """Never given to somebody else, unlike names and addresses."""
    claims: Mapping[str, Any]


def verify(token: str, keys: Sequence[Jwk], expected: Expected, now_s: float) -> Identity:
    """Whom a valid ID token names. Raises: UnknownKey; Unauthenticated, which quotes nothing."""
    claims = _claims(token, keys, expected)
    _check_times(claims, now_s)
    nonce, subject = claims["nonce"], claims["sub"]
    if not isinstance(nonce, str) or not hmac.compare_digest(
        nonce.encode(), expected.nonce.encode()
    ):
        raise _invalid("it was not made for this sign-in")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT_CHARACTERS:
        raise _invalid("its subject is not legal")
    return Identity(expected.issuer, subject, claims)


def user_name(identity: Identity, claim: str) -> str:
    """The name of a new user, from a claim.

    Raises: PermissionDenied where it is no legal name, or an address that was not verified.
    """
    value = identity.claims.get(claim)
    name = value.lower() if isinstance(value, str) else ""
    if not _USER_NAME.fullmatch(name):
        raise PermissionDenied(
            f"the issuer's claim {claim} is not a legal user name; ask an admin for a user"
        )
    if claim == "email" and identity.claims.get("email_verified") is not True:
        raise PermissionDenied("the issuer has not verified the e-mail address")
    return name


def _claims(token: str, keys: Sequence[Jwk], expected: Expected) -> dict[str, Any]:
    import jwt

    if len(token) > MAX_ID_TOKEN_BYTES:
        raise _invalid("it is too large")
    try:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS:
            raise _invalid("its algorithm is not allowed")
        claims = jwt.decode(
            token,
            jwt.PyJWK(_key(header, keys), algorithm=algorithm),
            algorithms=[algorithm],
            audience=expected.client_id,
            issuer=expected.issuer,
            options={
                "require": _REQUIRED,
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError):
        raise _invalid("its signature, issuer or audience is wrong") from None
    if claims.get("azp", expected.client_id) != expected.client_id:
        raise _invalid("it was issued to another client")
    if (
        isinstance(claims["aud"], list)
        and len(cast("list[str]", claims["aud"])) > 1
        and ("azp" not in claims)
    ):
        raise _invalid("it has several audiences")
    return claims


def _key(header: Mapping[str, Any], keys: Sequence[Jwk]) -> dict[str, Any]:
    """The key with the token's `kid`; a token without one may have the only key there is."""
    key_id = header.get("kid")
    for_signing = [key for key in keys if key.get("use", "sig") == "sig"]
    found = [key for key in for_signing if key_id is None or key.get("kid") == key_id]
    if len(found) != 1:
        raise UnknownKey
    return dict(found[0])


def _check_times(claims: Mapping[str, Any], now_s: float) -> None:
    expires, issued, begins = claims["exp"], claims["iat"], claims.get("nbf", 0)
    if not all(type(time) in (int, float) for time in (expires, issued, begins)):
        raise _invalid("its times are not numbers")
    # Written so that NaN is refused.
    if not expires + MAX_CLOCK_SKEW_S > now_s:
        raise _invalid("it has expired: compare the hosts' clocks")
    if not max(issued, begins) <= now_s + MAX_CLOCK_SKEW_S:
        raise _invalid("it is not valid yet: compare the hosts' clocks")


def _invalid(why: str) -> Unauthenticated:
    return Unauthenticated(f"the issuer's ID token is not valid: {why}")
