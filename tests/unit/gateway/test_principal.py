"""Principals: what is verified, and what is only claimed."""

import pytest

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_gateway.access.authenticator import AccessAuthenticator
from mlxmesh_gateway.access.policies import Policies
from mlxmesh_gateway.access.requirement import Requirement
from mlxmesh_gateway.access.watch import PolicyWatch
from mlxmesh_gateway.door.evidence import Evidence
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_shared.rpc.caller import checked_name
from mlxmesh_shared.tls.identity import PeerIdentity
from tests.fakes.policy_service import NoPolicySource

GATEWAY_CLIENT = "spiffe://mlxmesh/client"


def principal(identity: str = "", claimed_name: str = "", host: str = "10.0.0.1") -> Principal:
    return Principal(
        kind=Kind.CERTIFICATE if identity else Kind.ANONYMOUS,
        identity=identity,
        role=Role.ROLE_CLIENT,
        claimed_name=claimed_name,
        host=host,
    )


async def test_only_a_certificate_verifies_a_caller() -> None:
    policies = Policies()
    requirement = Requirement(policies, setting="auto", listens=[], tls=True)
    watch = PolicyWatch(NoPolicySource(), policies)
    authenticator = AccessAuthenticator(policies, watch, requirement)

    async def kind(spiffe_id: str, role: Role.ValueType, claimed_name: str) -> Kind:
        evidence = Evidence(
            certificate=PeerIdentity(spiffe_id, role), claimed_name=claimed_name, host="10.0.0.1"
        )
        return (await authenticator.authenticate(evidence)).kind

    assert await kind("", Role.ROLE_UNSPECIFIED, "") is Kind.ANONYMOUS
    assert await kind("", Role.ROLE_UNSPECIFIED, "spiffe:admin") is Kind.ANONYMOUS
    assert await kind(GATEWAY_CLIENT, Role.ROLE_CLIENT, "") is Kind.CERTIFICATE


@pytest.mark.parametrize("claimed", ["", "a", "user:ada"])
def test_a_key_has_its_own_share_whatever_it_claims(claimed: str) -> None:
    key = Principal(
        kind=Kind.KEY,
        identity="key:k_1",
        role=Role.ROLE_CLIENT,
        claimed_name=claimed,
        host="10.0.0.1",
    )
    assert key.share == "key:k_1"


def test_the_share_of_every_user_is_a_legal_and_a_distinct_name() -> None:
    names = ["ada@example.org", "ada_example.org", "ada:example.org", "ada-example.org"]
    shares = {
        Principal(
            kind=Kind.USER, identity=f"user:{name}", role=Role.ROLE_CLIENT, host="10.0.0.1"
        ).share
        for name in names
    }
    assert len(shares) == len(names)
    assert all(checked_name(share) == share for share in shares)


def test_a_claimed_name_never_becomes_another_identity() -> None:
    assert principal(claimed_name=GATEWAY_CLIENT).id != principal(GATEWAY_CLIENT).id
    assert principal(GATEWAY_CLIENT, "a").id != principal(GATEWAY_CLIENT, "b").id
    assert principal(GATEWAY_CLIENT, "a").id != principal(claimed_name="a").id


def test_the_address_does_not_change_who_owns_a_generation() -> None:
    assert principal(host="10.0.0.1").id == principal(host="10.0.0.2").id
    assert principal(claimed_name="a", host="x").id == principal(claimed_name="a", host="y").id


def test_callers_without_a_name_share_the_limit_of_their_host() -> None:
    assert principal(host="10.0.0.1").share == "10.0.0.1"
    assert principal(claimed_name="a", host="10.0.0.1").share == "a"


def test_a_caller_without_evidence_and_name_is_not_known() -> None:
    assert not principal().known
    assert principal(claimed_name="a").known
    assert principal(GATEWAY_CLIENT).known


@pytest.mark.parametrize("claimed", ["key:k_1", "user:ada"])
def test_a_claimed_name_takes_nothing_of_a_key_or_user(claimed: str) -> None:
    assert principal(claimed_name=claimed).share not in ("key:k_1", "user:ada")
    assert principal(GATEWAY_CLIENT, claimed).share not in ("key:k_1", "user:ada")


def test_long_names_have_shares_that_differ() -> None:
    first, second = (
        Principal(
            kind=Kind.USER,
            identity=f"user:{'@' * 62}{end}",
            role=Role.ROLE_CLIENT,
            host="10.0.0.1",
        ).share
        for end in "ab"
    )
    assert first != second
    assert checked_name(first) == first
