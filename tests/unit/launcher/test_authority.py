"""The development authority: what it issues, when it renews, and who may read it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from mlxmesh_launcher.authority import LIFETIME, Authority, ensure_certificates
from mlxmesh_launcher.certificate_directory import read_certificate, read_certificates
from mlxmesh_shared.errors import IllegalState, InvalidArgument
from mlxmesh_shared.tls.identity import ROLES


def test_a_whole_mesh_gets_a_certificate_for_each_role(tmp_path: Path) -> None:
    ensure_certificates(tmp_path)
    assert [each.role for each in read_certificates(tmp_path)] == ["ca", *ROLES]


def test_only_the_owner_can_read_keys(tmp_path: Path) -> None:
    ensure_certificates(tmp_path / "tls")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "tls").glob("*.key")}
    assert modes == {0o600}
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700
    assert {path.suffix for path in (tmp_path / "tls").iterdir()} == {".crt", ".key"}


def test_what_is_good_is_left_alone_and_what_is_due_is_renewed(tmp_path: Path) -> None:
    ensure_certificates(tmp_path)
    Authority(tmp_path).issue("engine", lifetime=LIFETIME / 4)
    (tmp_path / "client.crt").unlink()
    before = (tmp_path / "gateway.crt").read_bytes()

    renewed = ensure_certificates(tmp_path)

    assert [each.role for each in renewed] == ["engine", "client"]
    assert (tmp_path / "gateway.crt").read_bytes() == before
    left = read_certificate(tmp_path / "engine.crt").expires - datetime.now(UTC)
    assert left > LIFETIME - timedelta(minutes=1)


def test_a_server_is_good_for_its_role_the_loopback_and_the_hosts_named(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    hosts = authority.issue("gateway", hosts=["mac.example", "10.0.0.7"]).hosts
    assert {"gateway.mlxmesh", "localhost", "127.0.0.1", "::1", "mac.example", "10.0.0.7"} <= {
        *hosts
    }


def test_a_renewal_keeps_the_hosts(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    before = authority.issue("gateway", hosts=["mac.example"])
    (after,) = authority.renew(["gateway"])
    assert set(after.hosts) == set(before.hosts)


@pytest.mark.parametrize("role", ["client", "admin"])
def test_a_callers_certificate_is_good_for_no_host(tmp_path: Path, role: str) -> None:
    assert Authority.create(tmp_path).issue(role, hosts=["mac.example"]).hosts == ()


def test_an_authority_is_not_replaced(tmp_path: Path) -> None:
    Authority.create(tmp_path)
    with pytest.raises(IllegalState, match="has an authority already"):
        Authority.create(tmp_path)


def test_without_an_authority_nothing_is_issued(tmp_path: Path) -> None:
    with pytest.raises(IllegalState, match="mlxmesh certs init"):
        Authority(tmp_path)


def test_an_unknown_role_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="janitor is no role") as caught:
        Authority.create(tmp_path).issue("janitor")
    assert caught.value.field == "role"


def test_a_host_must_be_ascii(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Authority.create(tmp_path).issue("gateway", hosts=["münchen"])
    assert caught.value.field == "host"


def test_consul_agents_get_a_certificate_without_a_role(tmp_path: Path) -> None:
    ensure_certificates(tmp_path)
    authority = Authority(tmp_path)
    assert "consul" not in authority.issued()

    hosts = authority.issue("consul", hosts=["server.dc1.consul"]).hosts

    assert {"server.dc1.consul", "localhost", "127.0.0.1"} <= set(hosts)
    assert not any(host.endswith(".mlxmesh") for host in hosts)
    certificate = x509.load_pem_x509_certificate((tmp_path / "consul.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == []
    assert "consul" in authority.issued()
    assert [each.role for each in read_certificates(tmp_path)] == ["ca", *ROLES, "consul"]


def test_certificates_hold_when_the_clock_is_set_back_by_hours(tmp_path: Path) -> None:
    ensure_certificates(tmp_path)
    earlier = datetime.now(UTC) - timedelta(hours=23)
    for name in ("ca", *ROLES):
        certificate = x509.load_pem_x509_certificate((tmp_path / f"{name}.crt").read_bytes())
        assert certificate.not_valid_before_utc < earlier
