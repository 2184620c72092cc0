"""The certificates of a process at its Consul agent, which are renewed while it runs."""

from pathlib import Path

import pytest

from mlxmesh_launcher.authority import Authority
from mlxmesh_launcher.certificate_directory import CONSUL
from mlxmesh_shared.consul.transport import RenewedTls
from mlxmesh_shared.errors import RegistryUnavailable
from mlxmesh_shared.settings import ConsulSettings


class Rig:
    def __init__(self, folder: Path) -> None:
        self.now_s = 0.0
        self.authority = Authority.create(folder)
        self.authority.issue(CONSUL)
        names = {"ca": "ca.crt", "cert": "consul.crt", "key": "consul.key"}
        given = {name: folder / file for name, file in names.items()}
        self.key = given["key"]
        self.tls = RenewedTls(ConsulSettings.model_validate(given), lambda: self.now_s)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_the_context_stays_while_the_files_do(rig: Rig) -> None:
    first = rig.tls.current()
    rig.now_s += 5
    assert rig.tls.current() is first


def test_new_certificates_make_a_new_context(rig: Rig) -> None:
    first = rig.tls.current()
    rig.authority.issue(CONSUL)
    assert rig.tls.current() is first  # looked at once a second
    rig.now_s += 5
    assert rig.tls.current() is not first


def test_files_that_do_not_match_leave_the_last_context(rig: Rig) -> None:
    first, key = rig.tls.current(), rig.key.read_bytes()
    rig.authority.issue(CONSUL)
    new = rig.key.read_bytes()
    rig.key.write_bytes(key)
    rig.now_s += 5
    assert rig.tls.current() is first
    rig.key.unlink()
    rig.now_s += 5
    assert rig.tls.current() is first
    rig.key.write_bytes(new)
    rig.now_s += 5
    assert rig.tls.current() is not first


def test_without_tls_there_is_no_context() -> None:
    tls = RenewedTls(ConsulSettings())
    assert (tls.is_on, tls.current()) == (False, None)


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable):
        RenewedTls(ConsulSettings(ca=tmp_path / "ca.crt"))
