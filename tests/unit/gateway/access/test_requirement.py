"""When callers must authenticate, and what is remembered of those who could not."""

import pytest

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_gateway.access.authenticator import Refused
from mlxmesh_gateway.access.policies import Policies, PolicyChange
from mlxmesh_gateway.access.requirement import Requirement, Setting, is_this_host

LOOPBACK, EVERYWHERE = ["127.0.0.1:50051", "127.0.0.1:8051"], ["127.0.0.1:50051", "0.0.0.0:8051"]


def policies(*, users: bool) -> Policies:
    result = Policies()
    result.apply(PolicyChange(revision=1, whole=True, authentication_required=users))
    return result


@pytest.mark.parametrize(
    ("setting", "listens", "users", "on"),
    [
        ("auto", LOOPBACK, False, False),
        ("auto", LOOPBACK, True, True),
        ("auto", EVERYWHERE, False, True),
        ("auto", [], False, False),
        ("required", LOOPBACK, False, True),
        ("off", EVERYWHERE, True, False),
    ],
)
def test_auto_requires_it_with_users_or_beyond_loopback(
    setting: Setting, listens: list[str], users: bool, on: bool
) -> None:
    known = policies(users=users)
    requirement = Requirement(known, setting=setting, listens=listens, tls=False)
    assert requirement.on is on
    assert requirement.checks_credentials is (users and setting != "off")


def test_what_is_not_known_yet_is_required() -> None:
    requirement = Requirement(
        Policies(), undecided=lambda: True, setting="auto", listens=LOOPBACK, tls=False
    )
    assert requirement.on
    assert requirement.anonymous_role("127.0.0.1") == Role.ROLE_UNSPECIFIED


@pytest.mark.parametrize(("setting", "waits"), [("auto", True), ("required", True), ("off", False)])
def test_credentials_wait_for_policies_unless_they_mean_nothing(
    setting: Setting, waits: bool
) -> None:
    requirement = Requirement(
        Policies(), undecided=lambda: True, setting=setting, listens=LOOPBACK, tls=False
    )
    assert requirement.knows_no_credentials_yet is waits


@pytest.mark.parametrize(
    ("tls", "requested", "role"),
    [
        (False, True, Role.ROLE_ADMIN),
        (True, True, Role.ROLE_UNSPECIFIED),
        (True, False, Role.ROLE_CLIENT),
    ],
)
def test_without_authentication_the_anonymous_are_as_before(
    tls: bool, requested: bool, role: Role.ValueType
) -> None:
    requirement = Requirement(
        policies(users=False),
        setting="auto",
        listens=LOOPBACK,
        tls=tls,
        certificates_requested=requested,
    )
    assert requirement.anonymous_role("10.0.0.7") == role


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_is_this_host(host: str) -> None:
    assert is_this_host(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "unknown", "", "0.0.0.0", "unix"])
def test_other_addresses_are_not(host: str) -> None:
    assert not is_this_host(host)


def test_refused_credentials_are_remembered_for_a_while_and_bounded() -> None:
    refused = Refused(max_entries=2, retention_s=5.0)
    refused.add(b"a", 0.0)
    assert refused.has(b"a", 4.9)
    assert not refused.has(b"a", 5.0)
    refused.add(b"b", 1.0)
    refused.add(b"c", 1.0)
    assert not refused.has(b"a", 1.0)
    assert refused.has(b"c", 1.0)
