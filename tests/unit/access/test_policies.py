"""Differences of policies: a gateway that follows them knows what one knows that starts anew."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_access.accounts.models import Key, Role, User
from mlxmesh_access.policies.models import (
    KeyPolicy,
    Policies,
    PolicyChange,
    UserPolicy,
    difference,
    key_policy,
    whole,
)
from mlxmesh_access.quotas.models import Limits, Subject, SubjectKind

NAMES = st.sampled_from("abc")
ROLES = st.sampled_from(Role)


def key_of(name: str, role: Role) -> KeyPolicy:
    return KeyPolicy(
        key_id=name, sha256=name.encode(), user=name, role=role, models=(), expires_ms=0
    )


def user_of(name: str, role: Role) -> UserPolicy:
    return UserPolicy(name=name, role=role, team="", tokens_valid_from_ms=0)


KEYS = st.dictionaries(NAMES, ROLES).map(
    lambda found: {name: key_of(name, role) for name, role in found.items()}
)
USERS = st.dictionaries(NAMES, ROLES).map(
    lambda found: {name: user_of(name, role) for name, role in found.items()}
)
QUOTAS = st.dictionaries(
    st.builds(Subject, st.sampled_from(SubjectKind), NAMES),
    st.builds(Limits, tokens_per_day=st.integers(1, 3)),
)
STATES = st.builds(
    Policies,
    revision=st.just(0),
    keys=KEYS,
    users=USERS,
    quotas=QUOTAS,
    jwks_json=st.sampled_from(['{"keys":[]}', '{"keys":[1]}']),
    authentication_required=st.booleans(),
)


def applied(known: Policies, change: PolicyChange) -> Policies:
    """What a gateway knows after a change."""
    if change.whole:
        known = Policies(revision=0, jwks_json="")
    keys = {name: key for name, key in known.keys.items() if name not in change.removed_key_ids}
    users = {name: user for name, user in known.users.items() if name not in change.removed_users}
    quotas = {**known.quotas, **change.quotas}
    return Policies(
        revision=change.revision,
        keys=keys | {key.key_id: key for key in change.keys},
        users=users | {user.name: user for user in change.users},
        quotas={subject: limits for subject, limits in quotas.items() if limits is not None},
        jwks_json=change.jwks_json or known.jwks_json,
        authentication_required=change.authentication_required,
    )


@given(st.lists(STATES, min_size=1, max_size=6))
def test_differences_lead_to_the_same_policies_as_a_new_start(states: list[Policies]) -> None:
    numbered = [replace(state, revision=number) for number, state in enumerate(states)]
    known = applied(Policies(revision=99, keys={"x": key_of("x", Role.ADMIN)}), whole(numbered[0]))
    assert known == numbered[0]
    for before, after in itertools.pairwise(numbered):
        known = applied(known, difference(before, after))
        assert known == after


@given(STATES)
def test_equal_states_differ_in_nothing(state: Policies) -> None:
    change = difference(state, replace(state, revision=5))
    assert (change.keys, change.users, change.quotas, change.jwks_json) == ((), (), {}, "")
    assert (change.removed_key_ids, change.removed_users) == ((), ())


def test_a_key_is_never_more_than_its_user() -> None:
    key = Key(key_id="k", name="k", prefix="p", sha256=b"1", user="ada", role=Role.ADMIN)
    assert key_policy(key, User(name="ada")).role is Role.MEMBER
    assert key_policy(key, User(name="ada", role=Role.ADMIN)).role is Role.ADMIN
    assert key_policy(replace(key, role=Role.MEMBER), User(name="ada", role=Role.ADMIN)).role is (
        Role.MEMBER
    )
