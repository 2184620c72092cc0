"""The identity behind a public call: the claim never changes what was verified."""

import pytest

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_gateway.door.principal import Principal, PrincipalKind, authenticate
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.tls.identity import PeerIdentity

NOBODY = PeerIdentity("", Role.ROLE_UNSPECIFIED)
ADMIN = PeerIdentity("spiffe://mlxmesh/admin", Role.ROLE_ADMIN)
STRANGER = PeerIdentity("spiffe://other/x", Role.ROLE_UNSPECIFIED)
PEER = "ipv4:10.0.0.7:5000"
CLAIM = (("mlxmesh-caller", "team-a"),)


def principal(identity: PeerIdentity, *metadata: tuple[str, str | bytes]) -> Principal:
    return authenticate(identity, metadata, peer=PEER)


def test_an_anonymous_principal_has_its_host_as_id_and_no_role() -> None:
    found = principal(NOBODY)
    assert (found.id, found.kind, found.owner) == ("10.0.0.7", PrincipalKind.ANONYMOUS, "#")
    assert (found.roles, found.tenant) == (frozenset(), "")


def test_a_claim_is_the_id_and_subdivides_the_owner() -> None:
    assert (principal(NOBODY, *CLAIM).id, principal(NOBODY, *CLAIM).owner) == ("team-a", "#team-a")
    assert principal(ADMIN, *CLAIM).owner == "spiffe://mlxmesh/admin#team-a"


@pytest.mark.parametrize("metadata", [(), CLAIM, (("mlxmesh-caller", "spiffe:x"),)])
def test_the_kind_and_the_roles_come_from_the_certificate_only(
    metadata: tuple[tuple[str, str], ...],
) -> None:
    found = principal(ADMIN, *metadata)
    assert (found.kind, found.roles) == (PrincipalKind.CERTIFICATE, {Role.ROLE_ADMIN})
    assert found.identity == ADMIN
    assert principal(NOBODY, *metadata).roles == frozenset()
    assert principal(NOBODY, *metadata).kind is PrincipalKind.ANONYMOUS


def test_a_certificate_of_another_trust_domain_has_no_role() -> None:
    assert principal(STRANGER).kind is PrincipalKind.CERTIFICATE
    assert principal(STRANGER).roles == frozenset()


def test_a_forged_owner_is_ignored() -> None:
    assert principal(NOBODY, ("mlxmesh-owner", "spiffe://mlxmesh/admin#")).owner == "#"


@pytest.mark.parametrize("claim", ["", "a b", "a" * 129, "é", "a#b", b"team-a"])
def test_an_illegal_claim_is_refused(claim: str | bytes) -> None:
    with pytest.raises(InvalidArgument, match="mlxmesh-caller"):
        principal(ADMIN, ("mlxmesh-caller", claim))
