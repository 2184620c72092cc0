"""Which key signs, when the next one is made, how long each is published."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_access.sign_in.ed25519 import KeyRing
from mlxmesh_access.sign_in.signing_keys import (
    MAX_ACCESS_TOKEN_S,
    PUBLISHED_AHEAD_S,
    SigningKey,
    key_set,
    signing_key,
    successor_is_due,
    times_of_new_key,
)
from mlxmesh_shared.access_tokens import MAX_CLOCK_SKEW_S, AccessClaims, AccessTokenVerifier
from mlxmesh_shared.errors import Unauthenticated

ROTATION_S = 30 * 86_400
AHEAD_MS = PUBLISHED_AHEAD_S * 1000
NOW_MS = 1_800_000_000_000
SECRET = b"s" * 32


def key(key_id: str, created_ms: int, rotation_s: float = ROTATION_S) -> SigningKey:
    signs_until_ms, expires_ms = times_of_new_key(created_ms, rotation_s)
    return SigningKey(
        key_id=key_id,
        public_jwk=json.dumps({"kid": key_id}),
        encrypted_private_key=b"",
        created_ms=created_ms,
        signs_until_ms=signs_until_ms,
        expires_ms=expires_ms,
    )


def published(keys: list[SigningKey], now_ms: int) -> list[str]:
    return [each["kid"] for each in json.loads(key_set(keys, now_ms))["keys"]]


def test_without_keys_one_is_due() -> None:
    assert successor_is_due([], 0)
    assert signing_key([], 0) is None
    assert key_set([], 0) == '{"keys":[]}'


def test_the_first_key_signs_at_once() -> None:
    first = key("a", NOW_MS)
    assert signing_key([first], NOW_MS) == first
    assert not successor_is_due([first], NOW_MS)


def test_a_successor_is_published_before_it_signs() -> None:
    first = key("a", NOW_MS)
    due_ms = first.signs_until_ms - AHEAD_MS
    assert not successor_is_due([first], due_ms - 1)
    assert successor_is_due([first], due_ms)
    second = key("b", due_ms)
    both = [second, first]
    assert not successor_is_due(both, due_ms)
    assert signing_key(both, due_ms) == first
    assert published(both, due_ms) == ["a", "b"]
    assert signing_key(both, due_ms + AHEAD_MS - 1) == first
    assert signing_key(both, due_ms + AHEAD_MS) == second


def test_after_a_long_pause_the_new_key_signs_at_once() -> None:
    first = key("a", NOW_MS)
    late_ms = first.signs_until_ms + 1
    assert signing_key([first], late_ms) is None
    assert successor_is_due([first], late_ms)
    second = key("b", late_ms)
    assert signing_key([first, second], late_ms) == second


def test_a_key_is_published_until_every_token_that_it_signed_has_expired() -> None:
    first = key("a", NOW_MS)
    last_expiry_ms = first.signs_until_ms + (MAX_ACCESS_TOKEN_S + MAX_CLOCK_SKEW_S) * 1000
    assert published([first], last_expiry_ms) == ["a"]
    assert published([first], first.expires_ms) == []


@given(
    steps=st.lists(st.integers(0, 5 * 86_400), min_size=1, max_size=60),
    rotation_s=st.integers(3600, 10 * 86_400),
    lifetime_s=st.integers(1, MAX_ACCESS_TOKEN_S),
)
def test_whenever_a_token_is_signed_its_key_is_published_until_it_expires(
    steps: list[int], rotation_s: int, lifetime_s: int
) -> None:
    keys: list[SigningKey] = []
    tokens: list[tuple[str, int]] = []
    now_ms = NOW_MS
    for step_s in steps:
        now_ms += step_s * 1000
        if successor_is_due(keys, now_ms):
            keys.append(key(f"k{len(keys)}", now_ms, rotation_s))
        signs = signing_key(keys, now_ms)
        assert signs is not None
        tokens.append((signs.key_id, now_ms + lifetime_s * 1000))
        for key_id, expires_ms in tokens:
            assert key_id in published(keys, now_ms) or now_ms > expires_ms


def claims() -> AccessClaims:
    return AccessClaims(
        user="ada",
        session_id="s_1",
        token_id="t_1",
        issued_s=NOW_MS / 1000,
        valid_from_s=NOW_MS / 1000,
        expires_s=NOW_MS / 1000 + 600,
        role="admin",
        team="blue",
    )


def test_a_gateway_verifies_what_a_key_signs() -> None:
    ring = KeyRing(SECRET)
    made = ring.new_key(NOW_MS, ROTATION_S)
    verifier = AccessTokenVerifier(key_set([made], NOW_MS))
    token = ring.sign(made, claims())
    assert verifier.verify(token, NOW_MS / 1000, tokens_valid_from=lambda user: 0) == claims()
    other = ring.sign(replace(ring.new_key(NOW_MS, ROTATION_S), key_id=made.key_id), claims())
    with pytest.raises(Unauthenticated):
        verifier.verify(other, NOW_MS / 1000, tokens_valid_from=lambda user: 0)


def test_what_is_stored_and_published_does_not_contain_the_private_key() -> None:
    made = KeyRing(SECRET).new_key(NOW_MS, ROTATION_S)
    jwk = json.loads(made.public_jwk)
    assert jwk.keys() == {"kty", "crv", "x", "kid", "alg", "use"}
    assert KeyRing(SECRET).usable([made]) == [made]


def test_another_hosts_keys_are_published_but_do_not_sign() -> None:
    """With one database, each host signs with keys of its own secret."""
    here, there = KeyRing(SECRET), KeyRing(b"t" * 32)
    keys = [there.new_key(NOW_MS, ROTATION_S)]
    assert here.usable(keys) == []
    assert successor_is_due(here.usable(keys), NOW_MS)
    keys.append(here.new_key(NOW_MS, ROTATION_S))
    assert signing_key(here.usable(keys), NOW_MS) == keys[1]
    assert len(published(keys, NOW_MS)) == 2
    with pytest.raises(ValueError, match="another host's secret"):
        here.sign(keys[0], claims())
