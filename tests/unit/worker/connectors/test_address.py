"""Addresses of back ends."""

import pytest

from mlxmesh_shared.errors import InvalidArgument, ServiceUnavailable
from mlxmesh_worker.connectors.address import parse_address
from mlxmesh_worker.connectors.port import Target


def target(address: str) -> Target:
    return Target(name="there", address=address)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("host:8000", "http://host:8000"),
        ("10.0.0.1:8188", "http://10.0.0.1:8188"),
        ("[::1]:8188", "http://[::1]:8188"),
        ("https://host/base/", "https://host/base"),
        ("https://host#key=env:NAME", "https://host"),
    ],
)
def test_legal(address: str, url: str) -> None:
    assert parse_address(target(address)).url == url


def test_sockets_begin_as_http() -> None:
    schemes = ("http", "https", "ws", "wss")
    assert parse_address(target("wss://host"), schemes).url == "https://host"
    assert parse_address(target("ws://host"), schemes).url == "http://host"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("file:///etc/passwd", "must begin with http:// or https://"),
        ("ftp://host", "must begin with http:// or https://"),
        ("ws://host", "must begin with http:// or https://"),
        ("http://", "names no host|is no URL"),
        ("http://ada:secret@host", "no credentials"),
        ("http://host/?key=secret", "no query"),
        ("http://host#secret", "#key=env:NAME"),
        ("http://host#key=secret", "env:NAME or file:/PATH"),
        ("http://host:99999", "is no URL"),
        ("http://ho st", "is no URL"),
        ("http://host/\n", "is no URL"),
    ],
)
def test_illegal(address: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as raised:
        parse_address(target(address))
    assert raised.value.field == "back_ends"
    assert "secret" not in raised.value.message


async def test_a_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    address = parse_address(target("host:1#key=env:MESH_TEST_KEY"))
    monkeypatch.setenv("MESH_TEST_KEY", " abc\n")
    assert await address.read_key() == "abc"
    monkeypatch.setenv("MESH_TEST_KEY", "two words")
    with pytest.raises(ServiceUnavailable, match="there") as raised:
        await address.read_key()
    assert "words" not in raised.value.message


async def test_no_key() -> None:
    assert await parse_address(target("host:1")).read_key() == ""
