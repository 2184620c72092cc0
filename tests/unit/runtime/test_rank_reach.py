"""Which ranks could reach rank 0."""

import pytest

from mlxmesh_runtime.rank_reach import check_reach, own_addresses
from mlxmesh_shared.errors import IllegalState

OWN = {"127.0.0.1", "10.0.0.2", "fd00::2"}


@pytest.mark.parametrize(
    ("leader", "peer"),
    [
        ("127.0.0.1:7", "ipv4:127.0.0.1:5"),
        ("127.0.0.1:7", "ipv4:10.0.0.2:5"),
        ("127.0.0.1:7", "ipv6:%5B::ffff:10.0.0.2%5D:5"),
        ("127.0.0.1:7", "ipv6:%5Bfd00::2%5D:5"),
        ("[::1]:7", "ipv6:[::1]:5"),
        ("127.0.0.1:7", "unix:/tmp/x"),
        ("10.0.0.1:7", "ipv4:10.0.0.1:5"),
        ("host-a:7", "ipv4:10.0.0.1:5"),
    ],
)
def test_a_rank_that_can_reach_rank_0(leader: str, peer: str) -> None:
    check_reach(leader, peer, OWN)


@pytest.mark.parametrize(
    ("leader", "peer"),
    [
        ("127.0.0.1:7", "ipv4:10.0.0.1:5"),
        ("localhost:7", "ipv6:%5B::ffff:10.0.0.1%5D:5"),
        ("[::1]:7", "ipv6:%5Bfd00::1%5D:5"),
    ],
)
def test_a_rank_on_another_host_is_told_what_to_set(leader: str, peer: str) -> None:
    with pytest.raises(IllegalState, match="group_listen"):
        check_reach(leader, peer, OWN)


def test_the_addresses_of_this_host() -> None:
    assert "127.0.0.1" in own_addresses()
