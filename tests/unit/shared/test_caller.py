"""Who makes a call."""

from dataclasses import dataclass

import pytest

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.rpc.caller import (
    ForwardedCaller,
    ForwardedSubmitter,
    claimed_caller,
    forwarded_caller,
    forwarded_owner,
    forwarded_submitter,
    owner_of,
    peer_host,
)


@dataclass
class Call:
    metadata: tuple[tuple[str, str | bytes], ...] | None = None
    identity: bytes = b""

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...] | None:
        return self.metadata

    def peer(self) -> str:
        return "ipv4:10.0.0.7:41234"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"peer_spiffe_id": [self.identity]} if self.identity else {}


@pytest.mark.parametrize("name", ["a", "team-a", "A.b_c:9-", "x" * 128])
def test_a_call_may_name_its_caller(name: str) -> None:
    assert claimed_caller(Call((("other", "1"), ("mlxmesh-caller", name)))) == name


@pytest.mark.parametrize("name", ["", "x" * 129, "a b", "a/b", "ä", "a\n", b"a"])
def test_an_illegal_name_is_refused_and_not_repeated(name: str | bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        claimed_caller(Call((("mlxmesh-caller", name),)))
    assert caught.value.field == "mlxmesh-caller"
    assert "a/b" not in caught.value.message


@pytest.mark.parametrize("metadata", [None, (), (("x-request-id", "1"),)])
def test_without_a_name_it_is_the_host(metadata: tuple[tuple[str, str], ...] | None) -> None:
    assert claimed_caller(Call(metadata)) == "10.0.0.7"


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
    assert peer_host(peer) == host


CLIENT = b"spiffe://mlxmesh/client"
NAMED = ("mlxmesh-caller", "a")


def test_an_owner_is_a_certificates_identity_and_a_name_within_it() -> None:
    calls = [Call(), Call((NAMED,)), Call(identity=CLIENT), Call((NAMED,), CLIENT)]
    owners = [owner_of(call) for call in calls]
    assert owners == ["#", "#a", "spiffe://mlxmesh/client#", "spiffe://mlxmesh/client#a"]


def test_a_client_cannot_name_its_owner_only_a_gateway_can() -> None:
    told = ("mlxmesh-owner", "spiffe://mlxmesh/client#a")
    assert owner_of(Call((told,))) == "#"
    assert forwarded_owner(Call((told, NAMED))) == told[1]
    assert forwarded_owner(Call((NAMED,))) == "#a"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((), ForwardedCaller("anonymous", is_admin=False, user="")),
        (
            (("mlxmesh-owner", "user:ada"), ("mlxmesh-role", "client"), ("mlxmesh-user", "ada")),
            ForwardedCaller("user:ada", is_admin=False, user="ada"),
        ),
        (
            (("mlxmesh-owner", "key:k_1"), ("mlxmesh-role", "admin"), ("mlxmesh-user", "ada")),
            ForwardedCaller("key:k_1", is_admin=True, user="ada"),
        ),
        (
            (("mlxmesh-owner", "key:k_1#claimed"), ("mlxmesh-role", "client")),
            ForwardedCaller("key:k_1", is_admin=False, user=""),
        ),
        (
            (("mlxmesh-role", "admin"), ("mlxmesh-authentication", "off")),
            ForwardedCaller("anonymous", is_admin=True, user="", authentication_is_off=True),
        ),
        ((("mlxmesh-owner", "#claimed"),), ForwardedCaller("anonymous", is_admin=False, user="")),
        ((("mlxmesh-role", "root"),), ForwardedCaller("anonymous", is_admin=False, user="")),
    ],
)
def test_a_forwarded_caller(
    metadata: tuple[tuple[str, str], ...], expected: ForwardedCaller
) -> None:
    assert forwarded_caller(Call(metadata)) == expected


def test_a_submitter_has_what_its_work_needs_later() -> None:
    call = Call(
        (
            ("mlxmesh-owner", "key:k_1#a"),
            ("mlxmesh-caller", "key:k_1"),
            ("mlxmesh-role", "client"),
            ("mlxmesh-user", "ada"),
            ("mlxmesh-team", "core"),
            ("mlxmesh-models", "qwen*,llama"),
        )
    )
    caller = ForwardedCaller("key:k_1", is_admin=False, user="ada")
    assert forwarded_submitter(call) == ForwardedSubmitter(
        caller, owner="key:k_1#a", share="key:k_1", team="core", models=("qwen*", "llama")
    )


def test_a_submitter_without_credentials_shares_with_its_host() -> None:
    found = forwarded_submitter(Call((("mlxmesh-owner", "#"),)))
    assert (found.share, found.team, found.models) == ("10.0.0.7", "", ())


@pytest.mark.parametrize("name", ["a#b", "", "a b"])
def test_a_name_cannot_pass_for_an_identity(name: str) -> None:
    with pytest.raises(InvalidArgument):
        owner_of(Call((("mlxmesh-caller", name),)))
