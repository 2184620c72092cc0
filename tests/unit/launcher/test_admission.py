"""Which hosts the first one admits, and what it signs for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from mlxmesh_launcher.authority import Authority
from mlxmesh_launcher.certificate_directory import NewKey, key_hash
from mlxmesh_launcher.hosts.admission import (
    Admission,
    Admitted,
    Candidate,
    legal_address,
    roles_of,
)
from mlxmesh_launcher.hosts.attempts import MAX_PER_PEER
from mlxmesh_launcher.hosts.audit import AuditOutbox
from mlxmesh_launcher.hosts.invitations import Invitations
from mlxmesh_launcher.hosts.reports import HostReports
from mlxmesh_launcher.hosts.state import SERVICES, HostState, Members, folder_of
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    MeshError,
    NameInUse,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
)
from mlxmesh_shared.events import discard_event

NOW_S = 1_800_000_000.0
PEER = "10.0.0.2"
DEFAULT = ("runtime", "generation", "gateway")


class First:
    """A first host whose clock stands still."""

    def __init__(self, data_dir: Path) -> None:
        state = HostState("a", "10.0.0.1", "a", consul="/usr/bin/consul", gossip_key="k")
        folder_of(data_dir).mkdir(parents=True)
        Authority.create(data_dir / "tls")
        self.invitations = Invitations(folder_of(data_dir), lambda: NOW_S)
        self.members = Members(data_dir)
        self.keys = {role: NewKey.create(role) for role in roles_of(SERVICES, runs_agent=True)}
        self.admission = Admission(
            state,
            self.invitations,
            self.members,
            data_dir / "tls",
            HostReports(discard_event, AuditOutbox(folder_of(data_dir))),
            clock=lambda: NOW_S,
            monotonic=lambda: NOW_S,
            own_version="0.4.1",
        )

    def candidate(self, services: tuple[str, ...] = DEFAULT, **changes: Any) -> Candidate:
        made, secret = self.invitations.create(services, 60)
        requests = {role: key.csr for role, key in self.keys.items()}
        legal = Candidate(made.id, secret, "b", PEER, "0.4.0", NOW_S + 10, requests)
        return replace(legal, **changes)

    def admit(self, services: tuple[str, ...] = DEFAULT, **changes: Any) -> Admitted:
        return self.admission.admit(self.candidate(services, **changes), PEER)


@pytest.fixture
def first(tmp_path: Path) -> First:
    return First(tmp_path)


def names_of(certificate: bytes) -> set[str]:
    parsed = x509.load_pem_x509_certificate(certificate)
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def test_a_host_gets_the_certificates_of_its_services_for_its_own_keys(first: First) -> None:
    admitted = first.admit()
    assert set(admitted.certificates) == {*DEFAULT, "engine", "client", "admin", "consul"}
    assert {"b", PEER, "runtime.mlxmesh", "spiffe://mlxmesh/runtime"} <= names_of(
        admitted.certificates["runtime"]
    )
    signed = x509.load_pem_x509_certificate(admitted.certificates["runtime"]).public_key()
    request = x509.load_der_x509_csr(first.keys["runtime"].csr)
    assert signed == request.public_key()
    signed_by = x509.load_pem_x509_certificate(admitted.ca)
    for each in admitted.certificates.values():
        x509.load_pem_x509_certificate(each).verify_directly_issued_by(signed_by)


def test_only_a_host_with_a_gateway_may_act_as_admin(first: First) -> None:
    admitted = first.admit(("runtime", "generation"))
    assert set(admitted.certificates) == {"runtime", "generation", "engine", "client", "consul"}


def test_no_host_passes_for_a_consul_server_or_a_service(first: First) -> None:
    names = ("server.dc1.consul", "Model.mlxmesh", "a_b")
    for number, name in enumerate(names):
        admitted = first.admit(name=name, address=f"10.0.1.{number}")
        for certificate in admitted.certificates.values():
            assert name not in names_of(certificate)


REFUSED: dict[str, tuple[dict[str, Any], type[MeshError], str]] = {
    "a wrong secret": ({"secret": bytes(20)}, Unauthenticated, "no open invitation"),
    "an older version": ({"version": "0.3.9"}, IllegalState, "the same version on both"),
    "a clock ahead": ({"local_time_s": NOW_S + 301}, IllegalState, "301 s ahead of"),
    "a clock behind": ({"local_time_s": NOW_S - 4000}, IllegalState, "4000 s behind"),
    "the name of the first host": ({"name": "a"}, NameInUse, "another host name"),
    "a name": ({"address": "b.example"}, InvalidArgument, "--advertise"),
    "a loopback address": ({"address": "127.0.0.1"}, InvalidArgument, "--advertise"),
    "no requests": ({"requests": {}}, InvalidArgument, "no certificate request for runtime"),
    "garbage as a request": (
        {"requests": dict.fromkeys(roles_of(SERVICES, runs_agent=True), b"x")},
        InvalidArgument,
        "certificate request",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_host_may_try_again_with_its_token(what: str, first: First) -> None:
    changes, error, words = REFUSED[what]
    legal = first.candidate()
    with pytest.raises(error, match=words):
        first.admission.admit(replace(legal, **changes), PEER)
    assert first.members.all() == []
    assert first.admission.admit(legal, PEER).services == DEFAULT


def test_a_name_is_free_again_once_its_host_was_removed(first: First) -> None:
    first.admit()
    with pytest.raises(NameInUse, match="mlxmesh hosts remove b"):
        first.admit()
    first.members.remove("b")
    first.admit()


def test_a_peer_that_guesses_has_to_wait_even_with_a_right_token(first: First) -> None:
    wrong = [first.candidate(secret=bytes(20)) for _ in range(MAX_PER_PEER)]
    for candidate in wrong:
        with pytest.raises(Unauthenticated):
            first.admission.admit(candidate, PEER)
    with pytest.raises(TooManyRequests):
        first.admit()
    first.admission.admit(first.candidate(), "10.0.0.3")


def test_only_the_host_itself_renews_its_certificates_until_it_is_removed(first: First) -> None:
    joined = first.admit()
    shown = joined.certificates["runtime"]
    keys = {role: NewKey.create(role) for role in joined.certificates}
    requests = {role: key.csr for role, key in keys.items()}
    first.admission.renew("b", requests, shown)
    # That response may have been lost, so the host shows the same certificate again.
    renewed = first.admission.renew("b", requests, shown)
    assert set(renewed.certificates) == set(joined.certificates)
    assert key_hash(renewed.certificates["runtime"]) != key_hash(shown)
    first.admission.renew("b", requests, renewed.certificates["runtime"])
    others = {role: NewKey.create(role).csr for role in first.keys}
    joined = first.admit(name="c", address="10.0.0.3", requests=others)
    other = joined.certificates["runtime"]
    with pytest.raises(PermissionDenied, match="not that of host c"):
        first.admission.renew("c", requests, shown)
    with pytest.raises(PermissionDenied, match="not that of host b"):
        first.admission.renew("b", requests, other)
    first.members.remove("b")
    with pytest.raises(PermissionDenied, match="was removed"):
        first.admission.renew("b", requests, renewed.certificates["runtime"])


@pytest.mark.parametrize(
    ("given", "kept"), [("10.0.0.7", "10.0.0.7"), ("FD00:213:0::7", "fd00:213::7")]
)
def test_an_address_is_written_in_one_way(given: str, kept: str) -> None:
    assert legal_address(given) == kept


@pytest.mark.parametrize("address", ["", "0.0.0.0", "::", "::1", "224.0.0.1", "10.0.0.1:80", "x"])
def test_an_address_that_others_cannot_reach_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument):
        legal_address(address)
