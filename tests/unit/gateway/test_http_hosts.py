"""Host headers of the HTTP port: addresses and known names, so that no web page can read it."""

import pytest

from mlxmesh_gateway.http.hosts import AnsweredHosts

HOSTS = AnsweredHosts(["mesh.example", "", "[::1]"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8051", "LOCALHOST:1", "localhost.", "127.0.0.1:8051", "127.0.0.1",
        "[::1]:8051", "[::1]", "::1", "192.168.1.4:8051", "Mesh.Example", "mesh.example:8051",
    ],
)  # fmt: skip
def test_answered(host: str) -> None:
    assert HOSTS.answers(host)


@pytest.mark.parametrize(
    "host",
    [
        "", ":8051", "evil.example", "evil.example:8051", "localhost.evil.example",
        "127.0.0.1.evil.example", "mesh.example.evil.example", "xmesh.example", "[evil]:1",
        "1.2.3.4.nip.io:8051", "localhost@evil.example", "x" * 10_000,
    ],
)  # fmt: skip
def test_not_answered(host: str) -> None:
    assert not HOSTS.answers(host)
