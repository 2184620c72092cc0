"""Principals: what is verified, and what is only claimed."""

from mlxmesh_gateway.door.principal import Kind, Principal

GATEWAY_CLIENT = "spiffe://mlxmesh/client"


def principal(identity: str = "", claimed_name: str = "", host: str = "10.0.0.1") -> Principal:
    return Principal(identity=identity, claimed_name=claimed_name, host=host)


def test_only_a_certificate_verifies_a_caller() -> None:
    assert principal().kind is Kind.ANONYMOUS
    assert principal(claimed_name="spiffe://mlxmesh/admin").kind is Kind.ANONYMOUS
    assert principal(GATEWAY_CLIENT).kind is Kind.CERTIFICATE


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
