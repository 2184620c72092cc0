"""Which key signs access tokens, when the next one is made, and how long each is published."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlxmesh_shared.access_tokens import MAX_CLOCK_SKEW_S

MAX_ACCESS_TOKEN_S = 86_400
"""The longest legal lifetime of an access token."""
PUBLISHED_AHEAD_S = 300
"""How long gateways know a key before it signs, so that none meets a token of an unknown key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key as it is stored. Times are Unix times in milliseconds."""

    key_id: str
    public_jwk: str
    encrypted_private_key: bytes
    created_ms: int
    signs_until_ms: int
    expires_ms: int
    """No token that it signed is valid any more."""


def signing_key(usable: Iterable[SigningKey], now_ms: int) -> SigningKey | None:
    """The key to sign with, of those whose private key is readable here; None if there is none.

    A new key waits until gateways know it, as long as an older one may still sign.
    """
    legal = [key for key in usable if now_ms < key.signs_until_ms]
    known = [key for key in legal if key.created_ms + PUBLISHED_AHEAD_S * 1000 <= now_ms]
    if known:
        return max(known, key=_age_order)
    return min(legal, key=_age_order, default=None)


def successor_is_due(usable: Iterable[SigningKey], now_ms: int) -> bool:
    """Whether a new key must be made: none is left, or the newest soon stops signing."""
    signs_until_ms = max((key.signs_until_ms for key in usable), default=0)
    return signs_until_ms - PUBLISHED_AHEAD_S * 1000 <= now_ms


def times_of_new_key(now_ms: int, rotation_s: float) -> tuple[int, int]:
    """Until when a key that is made now signs, and when it expires, in milliseconds."""
    signs_until_ms = now_ms + round(rotation_s * 1000)
    return signs_until_ms, signs_until_ms + (MAX_ACCESS_TOKEN_S + 2 * MAX_CLOCK_SKEW_S) * 1000


def key_set(keys: Sequence[SigningKey], now_ms: int) -> str:
    """The public keys as a JSON Web Key Set, always in the same order."""
    published = [key for key in keys if now_ms < key.expires_ms]
    listed = [json.loads(key.public_jwk) for key in sorted(published, key=_age_order)]
    return json.dumps({"keys": listed}, separators=(",", ":"))


def _age_order(key: SigningKey) -> tuple[int, str]:
    return key.created_ms, key.key_id
