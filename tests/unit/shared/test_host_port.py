"""HOST:PORT, apart and together."""

import pytest

from mlxmesh_shared.host.host_port import is_loopback, join_host_port, split_host_port


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", "50051"),
        ("mesh.example:1", "mesh.example", "1"),
        ("[::1]:0", "::1", "0"),
        ("[fe80::1%eth0]:7", "fe80::1%eth0", "7"),
        (":8051", "", "8051"),
    ],
)
def test_apart_and_together(address: str, host: str, port: str) -> None:
    assert split_host_port(address) == (host, port)
    assert join_host_port(host, port) == address


def test_without_a_port_there_is_no_host() -> None:
    assert split_host_port("localhost") == ("", "localhost")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_this_machine_alone_reaches_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.7", "mesh.example", "localhost.x"])
def test_others_reach_the_rest(host: str) -> None:
    assert not is_loopback(host)
