"""A peer's role, from what gRPC says of its certificate."""

import pytest

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_shared.tls.identity import ROLES, PeerIdentity, peer_identity, spiffe_id


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_known_by_its_uri(role: str) -> None:
    caller = peer_identity({"peer_spiffe_id": [spiffe_id(role).encode()]})
    assert caller == PeerIdentity(f"spiffe://mlxmesh/{role}", Role.Value(f"ROLE_{role.upper()}"))


def test_without_a_certificate_there_is_no_role() -> None:
    assert peer_identity({}) == PeerIdentity("", Role.ROLE_UNSPECIFIED)


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://elsewhere/gateway",
        "spiffe://mlxmesh/",
        "spiffe://mlxmesh/gateway/more",
        "spiffe://mlxmesh/unspecified",
        "spiffe://mlxmesh/GATEWAY",
        "gateway",
    ],
)
def test_any_other_uri_is_no_role(uri: str) -> None:
    caller = peer_identity({"peer_spiffe_id": [uri.encode()]})
    assert caller == PeerIdentity(uri, Role.ROLE_UNSPECIFIED)
