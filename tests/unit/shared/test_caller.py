"""Who makes a call."""

from dataclasses import dataclass

import pytest

from mlxmesh_shared.caller import caller_of, host_of
from mlxmesh_shared.errors import InvalidArgument


@dataclass
class Call:
    metadata: tuple[tuple[str, str | bytes], ...] | None = None

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...] | None:
        return self.metadata

    def peer(self) -> str:
        return "ipv4:10.0.0.7:41234"


@pytest.mark.parametrize("name", ["a", "team-a", "A.b_c:9-", "x" * 128])
def test_a_call_may_name_its_caller(name: str) -> None:
    assert caller_of(Call((("other", "1"), ("mlxmesh-caller", name)))) == name


@pytest.mark.parametrize("name", ["", "x" * 129, "a b", "a/b", "ä", "a\n", b"a"])
def test_an_illegal_name_is_refused_and_not_repeated(name: str | bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        caller_of(Call((("mlxmesh-caller", name),)))
    assert caught.value.field == "mlxmesh-caller"
    assert "a/b" not in caught.value.message


@pytest.mark.parametrize("metadata", [None, (), (("x-request-id", "1"),)])
def test_without_a_name_it_is_the_host(metadata: tuple[tuple[str, str], ...] | None) -> None:
    assert caller_of(Call(metadata)) == "10.0.0.7"


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:50051", "127.0.0.1"),
        ("ipv6:[::1]:50051", "::1"),
        ("ipv6:%5B::1%5D:50051", "::1"),
        ("ipv6:[fe80::1%25eth0]:1", "fe80::1_eth0"),
        ("unix:/tmp/socket", "unix"),
        ("unix:", "unix"),
        ("", "unknown"),
    ],
)
def test_the_host_of_a_peer(peer: str, host: str) -> None:
    assert host_of(peer) == host
