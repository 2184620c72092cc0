"""Sign-in with a password, and sessions, on both kinds of database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mlxmesh_access.accounts.models import Role, User, UserChange, UserKind, UserState
from mlxmesh_access.sign_in.password_sign_in import PasswordSignIn
from mlxmesh_access.sign_in.passwords import HashCost, Passwords
from mlxmesh_access.sign_in.sessions import MAX_SESSIONS_PER_USER
from mlxmesh_access.sign_in.signing_keys import PUBLISHED_AHEAD_S
from mlxmesh_access.sign_in.throttle import BY_NAME_AND_HOST
from mlxmesh_shared.errors import TooManyRequests, Unauthenticated
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.sign_in_rig import (
    ADMIN,
    HOST,
    LIFETIME_S,
    LIMITS,
    PASSWORD,
    ROTATION_S,
    SignInRig,
    TurnedClock,
    sign_in_rig,
)


@pytest.fixture
async def rig(database: DatabaseUrl, tmp_path: Path) -> AsyncIterator[SignInRig]:
    async with sign_in_rig(database, tmp_path) as rig:
        await rig.add_user("ada")
        yield rig


async def test_a_session_has_a_token_that_gateways_accept(rig: SignInRig) -> None:
    tokens = await rig.sign_in()
    assert tokens.access.expires_ms == rig.clock() + LIFETIME_S * 1000
    assert tokens.user.last_sign_in_ms == rig.clock()
    claims = await rig.verified(tokens.access.text)
    assert (claims.user, claims.role, claims.team) == ("ada", "admin", "")
    assert (claims.issued_s, claims.expires_s) == (rig.clock.now_s, rig.clock.now_s + LIFETIME_S)
    assert f"session:{claims.session_id}" in {target for _, _, target, _ in await rig.audit()}


async def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(rig: SignInRig) -> None:
    await rig.users.create(ADMIN, User(name="robot", kind=UserKind.SERVICE_ACCOUNT), "")
    answers = set[tuple[str, str]]()
    for name in ("ada", "bob", "robot", "", "ADA", "ada\0", "ada' --"):
        with pytest.raises(Unauthenticated) as refused:
            await rig.sign_in(name, "wrong password")
        answers.add((refused.value.message, refused.value.field))
    assert answers == {("wrong name or password", "")}


async def test_an_unknown_name_costs_as_much_as_a_wrong_password(tmp_path: Path) -> None:
    """Compares CPU time, which other load does not change."""
    cost = HashCost(memory_kib=8 * 1024, passes=4, lanes=1)
    url = SqliteFile(tmp_path / "access.db")

    async with sign_in_rig(url, tmp_path, cost=cost) as rig:
        await rig.add_user("ada")
        await rig.users.create(ADMIN, User(name="robot", kind=UserKind.SERVICE_ACCOUNT), "")

        async def refused_s(name: str) -> float:
            before_s = time.process_time()
            for _ in range(BY_NAME_AND_HOST.free):
                with pytest.raises(Unauthenticated):
                    await rig.sign_in(name, "wrong password")
            return time.process_time() - before_s

        await refused_s("warm-up")
        known_s = await refused_s("ada")
        for name in ("bob", "robot", "No Name"):
            assert 0.5 < await refused_s(name) / known_s < 2


async def test_refusals_are_in_the_audit_log_without_what_may_be_a_password(rig: SignInRig) -> None:
    for name in ("ada", "my secret password"):
        with pytest.raises(Unauthenticated):
            await rig.sign_in(name, "wrong password")
    assert [entry for entry in await rig.audit() if entry[1] == "sign_in.refused"] == [
        ("anonymous", "sign_in.refused", "user:ada", "wrong password"),
        ("anonymous", "sign_in.refused", "unknown user", "wrong password"),
    ]


@pytest.mark.parametrize(
    ("state", "told"), [(UserState.DISABLED, "disabled"), (UserState.PENDING, "approval")]
)
async def test_only_active_users_sign_in_and_only_they_learn_why_not(
    rig: SignInRig, state: UserState, told: str
) -> None:
    await rig.users.sign_up("bob", PASSWORD)
    if state is UserState.DISABLED:
        await rig.change_user("bob", UserChange(state=UserState.DISABLED))
    with pytest.raises(Unauthenticated, match=told):
        await rig.sign_in("bob")
    with pytest.raises(Unauthenticated, match="wrong name or password"):
        await rig.sign_in("bob", "wrong password")
    await rig.change_user("bob", UserChange(state=UserState.ACTIVE))
    assert (await rig.sign_in("bob")).user.name == "bob"


async def test_repeated_attempts_are_delayed_and_do_not_reach_the_password(rig: SignInRig) -> None:
    for _ in range(BY_NAME_AND_HOST.free):
        with pytest.raises(Unauthenticated):
            await rig.sign_in("ada", "wrong password")
    with pytest.raises(TooManyRequests) as refused:
        await rig.sign_in("ada", PASSWORD)
    assert refused.value.retry_delay_s == 1
    assert (await rig.password_sign_in.sign_in("ada", PASSWORD, "10.0.0.2")).user.name == "ada"
    rig.clock.turn(1)
    await rig.sign_in("ada", PASSWORD)
    await rig.sign_in("ada", PASSWORD)


async def test_an_overloaded_service_does_not_count_as_a_wrong_password(rig: SignInRig) -> None:
    slow = HashCost(memory_kib=32 * 1024, passes=2, lanes=1)
    passwords = Passwords(slow, max_concurrent=1, max_waiting=0)
    signing_in = PasswordSignIn(
        rig.database, passwords, rig.sessions, rig.throttle, monotonic=lambda: rig.clock.now_s
    )
    refused = 0
    for _ in range(BY_NAME_AND_HOST.free + 1):
        hashing = asyncio.create_task(passwords.hash(PASSWORD))
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests, match="being verified"):
            await signing_in.sign_in("ada", PASSWORD, HOST)
        refused += 1
        await hashing
    assert refused > BY_NAME_AND_HOST.free
    assert (await rig.sign_in()).user.name == "ada"
    passwords.close()


async def test_an_outdated_hash_is_replaced_at_sign_in(
    database: DatabaseUrl, tmp_path: Path
) -> None:
    async with sign_in_rig(database, tmp_path) as rig:
        await rig.add_user("ada")
        old = await rig.users.get(ADMIN, "ada")
    dearer = HashCost(memory_kib=128, passes=2, lanes=1)
    async with sign_in_rig(database, tmp_path, cost=dearer) as rig:
        with pytest.raises(Unauthenticated):
            await rig.sign_in("ada", "wrong password")
        assert (await rig.users.get(ADMIN, "ada")).password_hash == old.password_hash
        await rig.sign_in()
        new = await rig.users.get(ADMIN, "ada")
        assert "m=128,t=2" in new.password_hash
        assert new.tokens_valid_from_ms == old.tokens_valid_from_ms
        await rig.sign_in()
        assert (await rig.users.get(ADMIN, "ada")).password_hash == new.password_hash


async def test_a_refresh_token_works_once_and_a_second_use_ends_the_session(rig: SignInRig) -> None:
    first = await rig.sign_in()
    other = await rig.sign_in()
    second = await rig.sessions.refresh(first.refresh_token)
    third = await rig.sessions.refresh(second.refresh_token)
    session_id = (await rig.verified(first.access.text)).session_id
    assert (await rig.verified(third.access.text)).session_id == session_id
    for token in (first, third):
        with pytest.raises(Unauthenticated, match="sign in again"):
            await rig.sessions.refresh(token.refresh_token)
    revoked = [entry for entry in await rig.audit() if entry[1] == "session.revoked"]
    details = "of user:ada: a refresh token was used twice"
    assert revoked == [("anonymous", "session.revoked", f"session:{session_id}", details)]
    await rig.sessions.refresh(other.refresh_token)


async def test_of_concurrent_uses_one_succeeds_and_the_session_ends(rig: SignInRig) -> None:
    first = await rig.sign_in()
    uses = [rig.sessions.refresh(first.refresh_token) for _ in range(8)]
    results = await asyncio.gather(*uses, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    assert len(errors) == 7
    assert {type(error) for error in errors} == {Unauthenticated}
    (issued,) = [result for result in results if not isinstance(result, BaseException)]
    with pytest.raises(Unauthenticated):
        await rig.sessions.refresh(issued.refresh_token)


async def test_an_access_token_is_no_refresh_token_and_a_guess_ends_nothing(rig: SignInRig) -> None:
    tokens = await rig.sign_in()
    session_id = (await rig.verified(tokens.access.text)).session_id
    guess = f"mlxr_{session_id}.{'a' * 43}.{'b' * 43}"
    for text in ("", "x", tokens.access.text, guess, tokens.refresh_token[:-1]):
        with pytest.raises(Unauthenticated) as refused:
            await rig.sessions.refresh(text)
        assert refused.value.field == "refresh_token"
        await rig.sessions.end(text)
    await rig.sessions.refresh(tokens.refresh_token)


async def test_a_session_ends_when_it_is_idle(rig: SignInRig) -> None:
    tokens = await rig.sign_in()
    rig.clock.turn(LIMITS.idle_s - 1)
    tokens = await rig.sessions.refresh(tokens.refresh_token)
    assert tokens.refresh_expires_ms == rig.clock() + LIMITS.idle_s * 1000
    rig.clock.turn(LIMITS.idle_s)
    with pytest.raises(Unauthenticated):
        await rig.sessions.refresh(tokens.refresh_token)


async def test_a_session_ends_after_its_lifetime_however_busy(rig: SignInRig) -> None:
    began_ms = rig.clock()
    tokens = await rig.sign_in()
    while rig.clock() - began_ms + LIMITS.idle_s * 1000 // 2 < LIMITS.lifetime_s * 1000:
        rig.clock.turn(LIMITS.idle_s // 2)
        tokens = await rig.sessions.refresh(tokens.refresh_token)
    assert tokens.refresh_expires_ms == began_ms + LIMITS.lifetime_s * 1000
    rig.clock.now_ms = began_ms + round(LIMITS.lifetime_s * 1000)
    with pytest.raises(Unauthenticated):
        await rig.sessions.refresh(tokens.refresh_token)


async def test_signing_out_ends_one_session(rig: SignInRig) -> None:
    one, other = await rig.sign_in(), await rig.sign_in()
    await rig.sessions.end(one.refresh_token)
    await rig.sessions.end(one.refresh_token)
    with pytest.raises(Unauthenticated):
        await rig.sessions.refresh(one.refresh_token)
    await rig.sessions.refresh(other.refresh_token)
    ended = [entry for entry in await rig.audit() if entry[1] == "session.ended"]
    session_id = (await rig.verified(one.access.text)).session_id
    assert ended == [("user:ada", "session.ended", f"session:{session_id}", "")]


@pytest.mark.parametrize(
    "change", [UserChange(password="another password"), UserChange(state=UserState.DISABLED)]
)
async def test_a_new_password_and_disabling_end_all_sessions_and_their_tokens(
    rig: SignInRig, change: UserChange
) -> None:
    await rig.add_user("bob")
    tokens = [await rig.sign_in(), await rig.sign_in()]
    others = await rig.sign_in("bob")
    rig.clock.turn(1)
    await rig.change_user("ada", change)
    for each in tokens:
        with pytest.raises(Unauthenticated):
            await rig.sessions.refresh(each.refresh_token)
        with pytest.raises(Unauthenticated, match="session has ended"):
            await rig.verified(each.access.text)
    await rig.sessions.refresh(others.refresh_token)
    assert (await rig.verified(others.access.text)).user == "bob"


async def test_a_session_that_begins_after_a_new_password_works(rig: SignInRig) -> None:
    await rig.change_user("ada", UserChange(password="another password"))
    tokens = await rig.sign_in("ada", "another password")
    assert (await rig.verified(tokens.access.text)).user == "ada"


async def test_a_removed_user_has_no_sessions(rig: SignInRig) -> None:
    await rig.add_user("bob", Role.MEMBER)
    tokens = await rig.sign_in("bob")
    await rig.users.delete(ADMIN, "bob")
    with pytest.raises(Unauthenticated):
        await rig.sessions.refresh(tokens.refresh_token)
    with pytest.raises(Unauthenticated):
        await rig.verified(tokens.access.text)


async def test_a_refreshed_token_has_the_present_role_and_team(rig: SignInRig) -> None:
    await rig.add_user("bob", Role.MEMBER)
    tokens = await rig.sign_in("bob")
    await rig.change_user("bob", UserChange(role=Role.ADMIN, team="blue"))
    tokens = await rig.sessions.refresh(tokens.refresh_token)
    claims = await rig.verified(tokens.access.text)
    assert (claims.role, claims.team) == ("admin", "blue")


async def test_a_user_has_a_bounded_number_of_sessions(rig: SignInRig) -> None:
    await rig.add_user("bob")
    others = await rig.sign_in("bob")
    sessions = [await rig.sign_in()]
    for _ in range(MAX_SESSIONS_PER_USER):
        rig.clock.turn(1)
        sessions.append(await rig.sign_in())
    with pytest.raises(Unauthenticated):
        await rig.sessions.refresh(sessions[0].refresh_token)
    await rig.sessions.refresh(sessions[1].refresh_token)
    await rig.sessions.refresh(sessions[-1].refresh_token)
    await rig.sessions.refresh(others.refresh_token)


async def test_expired_sessions_are_removed(rig: SignInRig) -> None:
    for _ in range(3):
        await rig.sign_in()
    rig.clock.turn(LIMITS.idle_s)
    await rig.sign_in()
    async with rig.database.transactions.write() as session:
        assert len(await session.fetch("SELECT * FROM sessions")) == 1


async def test_keys_rotate_and_tokens_stay_valid_until_they_expire(rig: SignInRig) -> None:
    assert await rig.key_set() == '{"keys":[]}'
    first = await rig.sign_in()
    revision = await rig.database.revision()
    before = await rig.key_set()
    await rig.sign_in()
    assert (await rig.database.revision(), await rig.key_set()) == (revision, before)
    rig.clock.turn(ROTATION_S - PUBLISHED_AHEAD_S)
    early = await rig.sign_in()
    assert (await rig.database.revision(), await rig.key_set()) != (revision, before)
    assert (await rig.database.revision()) == revision + 1
    rig.clock.turn(PUBLISHED_AHEAD_S)
    late = await rig.sign_in()
    assert (await rig.verified(early.access.text)).user == "ada"
    assert (await rig.verified(late.access.text)).user == "ada"
    with pytest.raises(Unauthenticated, match="expired"):
        await rig.verified(first.access.text)
    created = [entry for entry in await rig.audit() if entry[1] == "signing_key.created"]
    assert len(created) == 2


async def test_sign_ins_at_the_same_time_make_one_key(rig: SignInRig) -> None:
    await asyncio.gather(*(rig.sign_in() for _ in range(4)))
    assert (await rig.key_set()).count('"kid"') == 1


async def test_instances_that_begin_together_share_one_key(
    database: DatabaseUrl, tmp_path: Path
) -> None:
    clock = TurnedClock()
    async with (
        sign_in_rig(database, tmp_path, clock=clock) as one,
        sign_in_rig(database, tmp_path, clock=clock) as other,
    ):
        await one.add_user("ada")
        tokens = await asyncio.gather(one.sign_in(), other.sign_in())
        assert (await one.key_set()).count('"kid"') == 1
        first = await other.sessions.refresh(tokens[0].refresh_token)
        assert (await one.verified(first.access.text)).user == "ada"
        with pytest.raises(Unauthenticated):
            await one.sessions.refresh(tokens[0].refresh_token)
        with pytest.raises(Unauthenticated):
            await other.sessions.refresh(first.refresh_token)


async def test_after_a_restart_sessions_and_tokens_go_on(
    database: DatabaseUrl, tmp_path: Path
) -> None:
    clock = TurnedClock()
    async with sign_in_rig(database, tmp_path, clock=clock) as rig:
        await rig.add_user("ada")
        tokens = await rig.sign_in()
    async with sign_in_rig(database, tmp_path, clock=clock) as rig:
        assert (await rig.verified(tokens.access.text)).user == "ada"
        await rig.sessions.refresh(tokens.refresh_token)
        assert (await rig.key_set()).count('"kid"') == 1


async def test_a_copy_of_the_database_alone_signs_nothing(
    database: DatabaseUrl, tmp_path: Path
) -> None:
    """Without the file, a service makes a key of its own; older tokens stay valid."""
    clock = TurnedClock()
    async with sign_in_rig(database, tmp_path / "one", clock=clock) as rig:
        await rig.add_user("ada")
        tokens = await rig.sign_in()
    async with sign_in_rig(database, tmp_path / "two", clock=clock) as rig:
        assert (await rig.verified(tokens.access.text)).user == "ada"
        renewed = await rig.sessions.refresh(tokens.refresh_token)
        assert (await rig.verified(renewed.access.text)).user == "ada"
        assert (await rig.key_set()).count('"kid"') == 2


async def test_nothing_that_is_stored_signs_in(
    rig: SignInRig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The canary: no password, token or private key in the database, its files or the logs."""
    tokens = await rig.sign_in()
    renewed = await rig.sessions.refresh(tokens.refresh_token)
    for secret in ("wrong canary password", PASSWORD + "!"):
        with pytest.raises(Unauthenticated):
            await rig.sign_in("ada", secret)
    with pytest.raises(Unauthenticated):
        await rig.sessions.refresh(tokens.refresh_token)
    stored = await rig.everything_stored() + caplog.text + repr(tokens) + repr(renewed)
    stored += "".join(
        path.read_bytes().decode("latin-1")
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != "access.secret"
    )
    assert "ada" in stored
    assert "$argon2id$" in stored
    secrets = [PASSWORD, "wrong canary password"]
    for each in (tokens, renewed):
        secrets += [each.access.text, *each.access.text.split(".")[1:]]
        secrets += [each.refresh_token, *each.refresh_token.split(".")[1:]]
    assert [secret for secret in secrets if secret in stored] == []
    key_file = (tmp_path / "access.secret").read_text().strip()
    assert key_file not in stored


async def test_a_sign_in_that_is_cancelled_leaves_the_database_usable(
    tmp_path: Path,
) -> None:
    async with sign_in_rig(SqliteFile(tmp_path / "access.db"), tmp_path) as rig:
        await rig.add_user("ada")
        for steps in range(0, 40, 3):
            signing_in = asyncio.create_task(rig.password_sign_in.sign_in("ada", PASSWORD, HOST))
            for _ in range(steps):
                await asyncio.sleep(0)
            signing_in.cancel()
            await asyncio.wait([signing_in])
            rig.clock.turn(3600)
        assert (await rig.sign_in()).user.name == "ada"
