"""Who may do what: decisions without I/O."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from mlxmesh_access.accounts import rules
from mlxmesh_access.accounts.models import Key, Role, User, UserChange, UserKind, UserState
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    KeyNotFound,
    PermissionDenied,
    Unauthenticated,
    UserNotFound,
)
from mlxmesh_shared.rpc.caller import ForwardedCaller

ADMIN = ForwardedCaller("spiffe://mlxmesh/admin", is_admin=True, user="")
ADA = ForwardedCaller("user:ada", is_admin=False, user="ada")
CLIENT = ForwardedCaller("spiffe://mlxmesh/client", is_admin=False, user="")
KEY = Key(key_id="k_1", name="k", prefix="mm_1", sha256=b"", user="ada")
ADA_USER = User(name="ada")
ADA_ADMIN = User(name="ada", role=Role.ADMIN)


def test_only_admins_are_admins() -> None:
    rules.require_admin(ADMIN)
    for caller in (ADA, CLIENT):
        with pytest.raises(PermissionDenied):
            rules.require_admin(caller)


@pytest.mark.parametrize(
    ("caller", "name", "visible"),
    [
        (ADMIN, "ada", "ada"),
        (ADMIN, "", None),
        (ADA, "", "ada"),
        (ADA, "ada", "ada"),
        (ADA, "bob", None),
        (CLIENT, "", None),
        (CLIENT, "ada", None),
    ],
)
def test_visible_users(caller: ForwardedCaller, name: str, visible: str | None) -> None:
    if visible:
        assert rules.visible_user(caller, name, field="name") == visible
    else:
        with pytest.raises(UserNotFound) as caught:
            rules.visible_user(caller, name, field="name")
        assert caught.value.field == "name"


@pytest.mark.parametrize(
    ("user", "allowed"),
    [
        (ADA_USER, False),
        (ADA_ADMIN, True),
        (replace(ADA_ADMIN, state=UserState.PENDING), False),
    ],
)
def test_the_first_user(user: User, allowed: bool) -> None:
    rules.check_first_user(is_first=False, user=user)
    if allowed:
        rules.check_first_user(is_first=True, user=user)
    else:
        with pytest.raises(IllegalState):
            rules.check_first_user(is_first=True, user=user)


@pytest.mark.parametrize(
    ("before", "after", "others", "allowed"),
    [
        (ADA_ADMIN, None, 0, False),
        (ADA_ADMIN, None, 1, True),
        (ADA_ADMIN, ADA_USER, 0, False),
        (ADA_ADMIN, replace(ADA_ADMIN, state=UserState.DISABLED), 0, False),
        (ADA_ADMIN, replace(ADA_ADMIN, team="x"), 0, True),
        (ADA_USER, None, 0, True),
        (replace(ADA_ADMIN, state=UserState.DISABLED), None, 0, True),
    ],
)
def test_an_admin_remains(before: User, after: User | None, others: int, allowed: bool) -> None:
    if allowed:
        rules.check_an_admin_remains(before, after, others)
    else:
        with pytest.raises(IllegalState, match="last active admin"):
            rules.check_an_admin_remains(before, after, others)


@pytest.mark.parametrize(
    ("caller", "change", "error"),
    [
        (ADMIN, UserChange(state=UserState.DISABLED), None),
        (ADMIN, UserChange(state=UserState.PENDING), InvalidArgument),
        (ADA, UserChange(password="x" * 8), None),
        (ADA, UserChange(password="x" * 8, team=""), PermissionDenied),
        (ADA, UserChange(role=Role.ADMIN), PermissionDenied),
        (CLIENT, UserChange(password="x" * 8), UserNotFound),
    ],
)
def test_changes_of_users(
    caller: ForwardedCaller, change: UserChange, error: type[Exception] | None
) -> None:
    if error is None:
        rules.check_change(caller, ADA_USER, change)
    else:
        with pytest.raises(error):
            rules.check_change(caller, ADA_USER, change)


def test_a_service_account_gets_no_password() -> None:
    account = User(name="ci", kind=UserKind.SERVICE_ACCOUNT)
    with pytest.raises(InvalidArgument):
        rules.check_change(ADMIN, account, UserChange(password="x" * 8))


@pytest.mark.parametrize(
    ("caller", "owner", "role", "allowed"),
    [
        (ADMIN, ADA_USER, Role.MEMBER, True),
        (ADMIN, ADA_USER, Role.ADMIN, False),
        (ADMIN, ADA_ADMIN, Role.ADMIN, True),
        (ADA, ADA_USER, Role.MEMBER, True),
        (ADA, ADA_USER, Role.ADMIN, False),
        # Ada is an admin, but calls with a member's key.
        (ADA, ADA_ADMIN, Role.ADMIN, False),
        (ADA, User(name="bob"), Role.MEMBER, False),
        (CLIENT, ADA_USER, Role.MEMBER, False),
    ],
)
def test_new_keys_are_not_more_than_their_owner_and_creator(
    caller: ForwardedCaller, owner: User, role: Role, allowed: bool
) -> None:
    key = replace(KEY, role=role, user=owner.name)
    if allowed:
        rules.check_new_key(caller, owner, key, None)
    else:
        with pytest.raises(PermissionDenied):
            rules.check_new_key(caller, owner, key, None)


@pytest.mark.parametrize(
    ("allowed", "wanted", "covered"),
    [
        (("qwen*",), ("qwen2",), True),
        (("qwen*",), ("qwen*",), True),
        (("qwen*",), ("qwen2*-4bit",), True),
        (("qwen*",), ("q*",), False),
        (("qwen*",), ("llama",), False),
        (("qwen*",), (), False),
        (("qwen*", "llama"), ("llama", "qwen"), True),
        (("qwen*", "llama"), ("llama", "phi"), False),
        (("*",), ("*a*",), True),
        (("a*b*c",), ("axbxc",), True),
        (("a*b*c",), ("abc",), True),
        (("a*b*c",), ("acb",), False),
        (("a*b*c",), ("a*c",), False),
        (("ab*ba",), ("aba",), False),
        (("*a*",), ("bab",), True),
        (("qwen",), ("qwen*",), False),
        ((), (), True),
        ((), ("anything",), True),
    ],
)
def test_a_key_creates_keys_for_its_own_models_only(
    allowed: tuple[str, ...], wanted: tuple[str, ...], covered: bool
) -> None:
    calling = replace(KEY, models=allowed)
    if covered:
        rules.check_new_key(ADA, ADA_USER, replace(KEY, models=wanted), calling)
    else:
        with pytest.raises(PermissionDenied, match="models must be within"):
            rules.check_new_key(ADA, ADA_USER, replace(KEY, models=wanted), calling)


@pytest.mark.parametrize(
    ("limit_ms", "wanted_ms", "allowed"),
    [(0, 0, True), (0, 9, True), (9, 9, True), (9, 8, True), (9, 10, False), (9, 0, False)],
)
def test_a_key_creates_no_key_that_outlives_it(
    limit_ms: int, wanted_ms: int, allowed: bool
) -> None:
    calling = replace(KEY, expires_ms=limit_ms)
    wanted = replace(KEY, expires_ms=wanted_ms)
    if allowed:
        rules.check_new_key(ADA, ADA_USER, wanted, calling)
    else:
        with pytest.raises(PermissionDenied, match="expires must not be later"):
            rules.check_new_key(ADA, ADA_USER, wanted, calling)


def test_patterns_with_many_stars_take_no_time() -> None:
    """As a regular expression, this would take longer than the universe is old."""
    calling = replace(KEY, models=("*a" * 64,))
    before_s = time.process_time()
    with pytest.raises(PermissionDenied):
        rules.check_new_key(ADA, ADA_USER, replace(KEY, models=("a" * 63 + "b" * 65,)), calling)
    assert time.process_time() - before_s < 1


def test_an_admins_key_cannot_be_limited_to_models() -> None:
    key = replace(KEY, role=Role.ADMIN)
    rules.check_new_key(ADMIN, ADA_ADMIN, key, None)
    with pytest.raises(InvalidArgument, match="role member") as caught:
        rules.check_new_key(ADMIN, ADA_ADMIN, replace(key, models=("qwen*",)), None)
    assert caught.value.field == "models"


NOBODY = ForwardedCaller("anonymous", is_admin=True, user="")


@pytest.mark.parametrize(
    ("caller", "has_users", "allowed"),
    [
        (NOBODY, False, True),
        (NOBODY, True, False),
        (replace(NOBODY, authentication_is_off=True), True, True),
        (replace(NOBODY, is_admin=False), True, True),
        (ADMIN, True, True),
    ],
)
def test_with_users_no_admin_is_anonymous(
    caller: ForwardedCaller, has_users: bool, allowed: bool
) -> None:
    if allowed:
        rules.check_anonymous(caller, has_users=has_users)
    else:
        with pytest.raises(Unauthenticated):
            rules.check_anonymous(caller, has_users=has_users)


def test_keys_of_others_are_not_there() -> None:
    rules.check_key_visible(ADMIN, KEY)
    rules.check_key_visible(ADA, KEY)
    with pytest.raises(KeyNotFound):
        rules.check_key_visible(CLIENT, KEY)


BY_KEY = ForwardedCaller("key:k_1", is_admin=False, user="ada")
ADMIN_BY_KEY = replace(BY_KEY, is_admin=True)
ADMIN_KEY = replace(KEY, role=Role.ADMIN)


@pytest.mark.parametrize(
    ("caller", "user", "key", "works"),
    [
        (ADMIN, None, None, True),
        (CLIENT, None, None, True),
        (ADA, ADA_USER, None, True),
        (ADA, None, None, False),
        (ADA, replace(ADA_USER, state=UserState.DISABLED), None, False),
        (ADA, replace(ADA_USER, state=UserState.PENDING), None, False),
        (replace(ADA, is_admin=True), ADA_USER, None, False),
        (replace(ADA, is_admin=True), ADA_ADMIN, None, True),
        (BY_KEY, ADA_USER, KEY, True),
        (BY_KEY, ADA_USER, None, False),
        (BY_KEY, ADA_USER, replace(KEY, revoked_ms=1), False),
        (BY_KEY, ADA_USER, replace(KEY, expires_ms=10), False),
        (BY_KEY, ADA_USER, replace(KEY, expires_ms=11), True),
        (BY_KEY, ADA_USER, replace(KEY, user="bob"), False),
        (ADMIN_BY_KEY, ADA_ADMIN, KEY, False),
        (ADMIN_BY_KEY, ADA_USER, ADMIN_KEY, False),
        (ADMIN_BY_KEY, ADA_ADMIN, ADMIN_KEY, True),
    ],
)
def test_credentials_must_still_work(
    caller: ForwardedCaller, user: User | None, key: Key | None, works: bool
) -> None:
    if works:
        rules.check_credentials(caller, user, key, now_ms=10)
    else:
        with pytest.raises(Unauthenticated):
            rules.check_credentials(caller, user, key, now_ms=10)


@pytest.mark.parametrize(
    ("principal", "key_id"),
    [("key:k_1", "k_1"), ("user:key", ""), ("spiffe://x", "")],
)
def test_the_key_of_a_caller(principal: str, key_id: str) -> None:
    assert ForwardedCaller(principal, is_admin=False, user="").key_id == key_id


def test_the_smaller_role() -> None:
    assert rules.smaller(Role.ADMIN, Role.ADMIN) is Role.ADMIN
    assert rules.smaller(Role.ADMIN, Role.MEMBER) is Role.MEMBER
    assert rules.smaller(Role.MEMBER, Role.ADMIN) is Role.MEMBER
