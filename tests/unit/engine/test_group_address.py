"""Where the ranks of a group reach each other."""

import pytest

from mlxmesh_engine.service.group_process import reached_at


@pytest.mark.parametrize(
    ("host", "advertise_host", "address"),
    [
        ("127.0.0.1", "", "127.0.0.1:7"),
        # A host of a mesh of several has an advertised address, on which nothing listens then.
        ("127.0.0.1", "10.0.0.1", "127.0.0.1:7"),
        ("::1", "fd00::1", "[::1]:7"),
        ("0.0.0.0", "10.0.0.1", "10.0.0.1:7"),
        # Other hosts would take 0.0.0.0 for themselves; runtimes refuse loopback at once.
        ("0.0.0.0", "", "127.0.0.1:7"),
        ("10.0.0.1", "", "10.0.0.1:7"),
        ("::", "fd00::1", "[fd00::1]:7"),
    ],
)
def test_it_is_an_address_at_which_somebody_listens(
    host: str, advertise_host: str, address: str
) -> None:
    assert reached_at(host, 7, advertise_host) == address
