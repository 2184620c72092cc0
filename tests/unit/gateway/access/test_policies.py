"""Policies in memory: changes, and what never goes back."""

from dataclasses import replace

from mlxmesh_gateway.access.policies import Key, Limit, Policies, PolicyChange, Subject, User

KEY = Key(key_id="k_1", sha256=b"\x01" * 32, user="ada", is_admin=False)
ADA = User(name="ada", is_admin=False)
RED = Subject("team", "red")


def known() -> Policies:
    policies = Policies()
    limits = {RED: {Limit.TOKENS_PER_DAY: 10}}
    policies.apply(
        PolicyChange(
            revision=1,
            whole=True,
            keys=(KEY,),
            users=(ADA,),
            quotas=limits,
            jwks_json="set",
            authentication_required=True,
        )
    )
    return policies


def test_a_change_adds_and_removes() -> None:
    policies = known()
    other = Key(key_id="k_2", sha256=b"\x02" * 32, user="ada", is_admin=False)
    policies.apply(
        PolicyChange(revision=2, keys=(other,), removed_key_ids=("k_1",), removed_users=("ada",))
    )
    assert policies.key(KEY.sha256, 0) is None
    assert policies.key(other.sha256, 0) == other
    assert policies.user("ada") is None
    assert policies.revision == 2
    assert policies.jwks_json == "set"


def test_a_key_that_changes_is_not_known_by_its_old_hash() -> None:
    policies = known()
    changed = replace(KEY, sha256=b"\x03" * 32)
    policies.apply(PolicyChange(revision=2, keys=(changed,)))
    assert policies.key(KEY.sha256, 0) is None
    assert policies.key(changed.sha256, 0) == changed


def test_everything_replaces_what_was_known() -> None:
    policies = known()
    policies.apply(PolicyChange(revision=1, whole=True))
    assert policies.key(KEY.sha256, 0) is None
    assert policies.limits(RED) == {}


def test_what_requires_authentication_requires_it_for_ever() -> None:
    policies = known()
    policies.apply(PolicyChange(revision=9, whole=True, authentication_required=False))
    assert policies.authentication_required


def test_a_quota_without_limits_was_removed() -> None:
    policies = known()
    assert policies.limits(RED) == {Limit.TOKENS_PER_DAY: 10}
    policies.apply(PolicyChange(revision=2, quotas={RED: {}}))
    assert policies.limits(RED) == {}


def test_a_key_works_until_it_expires() -> None:
    policies = Policies()
    policies.apply(PolicyChange(revision=1, keys=(replace(KEY, expires_s=100.0),)))
    assert policies.key(KEY.sha256, 99.9) is not None
    assert policies.key(KEY.sha256, 100.0) is None


def test_nothing_shows_a_hash_or_a_key_set() -> None:
    assert "x01" not in repr(KEY)
    assert "secret set" not in repr(PolicyChange(revision=1, jwks_json="secret set"))
