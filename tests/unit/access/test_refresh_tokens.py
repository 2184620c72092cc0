"""Refresh tokens: what is stored of them, and what a presented one is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlxmesh_access.sign_in.refresh_tokens import (
    Judgement,
    RefreshToken,
    SessionLimits,
    StoredSession,
    judge,
    new_token,
    parse,
)

LIMITS = SessionLimits(lifetime_s=1000, idle_s=100)


def stored(token: RefreshToken, created_ms: int = 0, refreshed_ms: int = 0) -> StoredSession:
    return StoredSession(
        session_id=token.session_id,
        user="ada",
        family_sha256=token.family_sha256,
        secret_sha256=token.secret_sha256,
        created_ms=created_ms,
        refreshed_ms=refreshed_ms,
    )


def test_a_token_is_parsed_as_it_was_made() -> None:
    token = new_token()
    assert parse(token.text) == token
    following = token.next()
    assert parse(following.text) == following != token
    assert (following.session_id, following.family) == (token.session_id, token.family)
    assert len({new_token().text for _ in range(100)}) == 100


def test_a_token_has_256_bits_that_nobody_knows_and_tells_none_in_its_repr() -> None:
    token = new_token()
    assert len(token.secret) == 43
    assert token.secret not in repr(token)
    assert token.family not in repr(token)


@pytest.mark.parametrize(
    "text",
    ["", "mlxr_", new_token().text + "x", new_token().text[:-1], new_token().text + "\n", "\0"],
)
def test_what_has_another_form_is_no_token(text: str) -> None:
    assert parse(text) is None


def test_the_present_token_is_valid_and_an_earlier_one_was_used_before() -> None:
    first = new_token()
    second = first.next()
    third = second.next()
    assert judge(third, stored(third), LIMITS, 0) is Judgement.VALID
    assert judge(second, stored(third), LIMITS, 0) is Judgement.REUSED
    assert judge(first, stored(third), LIMITS, 0) is Judgement.REUSED


def test_who_knows_only_the_session_cannot_end_it() -> None:
    """Its id is in every access token."""
    token = new_token()
    guess = replace(new_token(), session_id=token.session_id)
    assert judge(guess, stored(token), LIMITS, 0) is Judgement.UNKNOWN
    assert judge(replace(guess, secret=token.secret), stored(token), LIMITS, 0) is Judgement.UNKNOWN
    assert judge(token, None, LIMITS, 0) is Judgement.UNKNOWN


@pytest.mark.parametrize(
    ("created_s", "refreshed_s", "now_s", "judgement"),
    [
        (0, 0, 99.999, Judgement.VALID),
        (0, 0, 100, Judgement.EXPIRED),
        (0, 950, 999.999, Judgement.VALID),
        (0, 950, 1000, Judgement.EXPIRED),
        (0, 999, 1000, Judgement.EXPIRED),
    ],
)
def test_a_session_ends_when_it_is_idle_or_old(
    created_s: int, refreshed_s: int, now_s: float, judgement: Judgement
) -> None:
    token = new_token()
    session = stored(token, created_s * 1000, refreshed_s * 1000)
    assert judge(token, session, LIMITS, round(now_s * 1000)) is judgement


def test_reuse_after_the_end_is_no_reuse() -> None:
    token = new_token()
    assert judge(token, stored(token.next()), LIMITS, 100_000) is Judgement.EXPIRED
