"""Invitations: single use, short-lived, stored without secrets; tokens; limits of attempts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxmesh_launcher.hosts.attempts import MAX_OF_ALL, MAX_PER_PEER, WINDOW_S, FailedAttempts
from mlxmesh_launcher.hosts.invitations import (
    MAX_OPEN,
    MAX_WRONG_SECRETS,
    Invitations,
    State,
)
from mlxmesh_launcher.hosts.join_token import PREFIX, JoinToken, parse_token
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    NotFound,
    TooManyRequests,
    Unauthenticated,
)

WRONG = bytes(20)
SERVICES = ("runtime", "generation")


@dataclass
class Clock:
    now_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def invitations(tmp_path: Path, clock: Clock) -> Invitations:
    return Invitations(tmp_path, clock)


def test_a_token_is_what_it_was_made_of() -> None:
    token = JoinToken("0123456789ab", bytes(range(20)), bytes(range(32)))
    assert parse_token(f" {token.encode()}\n") == token
    assert "secret" not in repr(token)


@pytest.mark.parametrize("damage", ["", "x", PREFIX, "cut", "longer", "other prefix", "umlaut"])
def test_a_damaged_token_is_refused_without_being_repeated(damage: str) -> None:
    whole = JoinToken("0123456789ab", bytes(range(20)), bytes(range(32))).encode()
    damaged = {
        "cut": whole[:-3],
        "longer": whole + "AAAA",
        "other prefix": whole.replace(PREFIX, "mlx_"),
        "umlaut": whole[:-1] + "ä",
    }.get(damage, damage)
    with pytest.raises(InvalidArgument, match="not a whole token") as caught:
        parse_token(damaged)
    assert not damaged or damaged == PREFIX or damaged not in str(caught.value).split()


def test_an_invitation_is_used_once(invitations: Invitations) -> None:
    made, secret = invitations.create(SERVICES, 60)
    assert invitations.verify(made.id, secret).services == SERVICES
    invitations.use(made.id, "b")
    with pytest.raises(Unauthenticated, match="host b used this token already"):
        invitations.verify(made.id, secret)
    assert invitations.open() == []


def test_only_a_hash_of_the_secret_is_stored_and_only_its_owner_can_read_it(
    invitations: Invitations, tmp_path: Path
) -> None:
    _, secret = invitations.create(SERVICES, 60)
    [path] = tmp_path.iterdir()
    assert secret.hex() not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    [row] = json.loads(path.read_text())
    assert len(row["secret_hash"]) == 64


def test_what_was_stored_is_known_after_a_restart(
    invitations: Invitations, tmp_path: Path, clock: Clock
) -> None:
    made, secret = invitations.create(SERVICES, 60)
    again = Invitations(tmp_path, clock)
    assert again.verify(made.id, secret) == made
    again.use(made.id, "b")
    with pytest.raises(Unauthenticated):
        Invitations(tmp_path, clock).verify(made.id, secret)


def test_it_expires_and_is_forgotten_a_day_later(invitations: Invitations, clock: Clock) -> None:
    made, secret = invitations.create(SERVICES, 60)
    clock.now_s += 60
    with pytest.raises(Unauthenticated, match="expired at 2027-"):
        invitations.verify(made.id, secret)
    assert [each.state(clock()) for each in invitations.all()] == [State.EXPIRED]
    clock.now_s += 86_401
    new, _ = invitations.create(SERVICES, 60)
    assert [each.id for each in invitations.all()] == [new.id]


def test_it_is_revoked_by_its_owner(invitations: Invitations) -> None:
    made, secret = invitations.create(SERVICES, 60)
    invitations.revoke(made.id)
    with pytest.raises(Unauthenticated, match="was revoked"):
        invitations.verify(made.id, secret)
    for unknown in (made.id, "0" * 12):
        with pytest.raises(NotFound):
            invitations.revoke(unknown)


def test_it_is_revoked_when_somebody_guesses_its_secret(invitations: Invitations) -> None:
    made, secret = invitations.create(SERVICES, 60)
    other, other_secret = invitations.create(SERVICES, 60)
    for _ in range(MAX_WRONG_SECRETS):
        with pytest.raises(Unauthenticated, match="no open invitation"):
            invitations.verify(made.id, WRONG)
    with pytest.raises(Unauthenticated, match="was revoked"):
        invitations.verify(made.id, secret)
    assert invitations.verify(other.id, other_secret) == other


def test_a_stranger_learns_nothing_of_an_invitation(invitations: Invitations) -> None:
    made, _ = invitations.create(SERVICES, 60)
    invitations.use(made.id, "b")
    messages = set[str]()
    for invitation_id in (made.id, "0" * 12):
        with pytest.raises(Unauthenticated) as caught:
            invitations.verify(invitation_id, WRONG)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_only_so_many_are_open(invitations: Invitations, clock: Clock) -> None:
    for _ in range(MAX_OPEN):
        invitations.create(SERVICES, 60)
    with pytest.raises(TooManyRequests, match="revoke some"):
        invitations.create(SERVICES, 60)
    clock.now_s += 61
    invitations.create(SERVICES, 60)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"id": "x"}]', "[[]]"])
def test_a_file_that_is_damaged_says_what_to_do(content: str, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "invitations.json").write_text(content)
    if content == "{}":
        assert Invitations(tmp_path, clock).all() == []
        return
    with pytest.raises(IllegalState, match="remove it"):
        Invitations(tmp_path, clock)


def test_a_peer_that_fails_too_often_has_to_wait_and_others_have_not(clock: Clock) -> None:
    failures = FailedAttempts(clock)
    for _ in range(MAX_PER_PEER):
        failures.check("10.0.0.9")
        failures.record("10.0.0.9")
        clock.now_s += 1
    with pytest.raises(TooManyRequests) as caught:
        failures.check("10.0.0.9")
    assert caught.value.retry_delay_s == WINDOW_S - MAX_PER_PEER
    failures.check("10.0.0.8")
    clock.now_s += WINDOW_S - MAX_PER_PEER
    failures.check("10.0.0.9")


def test_many_addresses_do_not_help(clock: Clock) -> None:
    failures = FailedAttempts(clock)
    for number in range(MAX_OF_ALL):
        failures.record(f"10.0.{number}.1")
    with pytest.raises(TooManyRequests):
        failures.check("10.9.9.9")
