"""The list of certificates that were recalled, as processes read it."""

import os
from pathlib import Path

import pytest

from mlxmesh_launcher.authority import Authority
from mlxmesh_launcher.hosts.recalling import Recalled, write_recalled
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.tls.recalled import (
    FILE_NAME,
    RecalledCertificates,
    fingerprint,
    peer_fingerprint,
)


class Rig:
    def __init__(self, folder: Path) -> None:
        self.now_s = 0.0
        self.path = folder / FILE_NAME
        self.recalled = RecalledCertificates(self.path, clock=lambda: self.now_s)

    def current(self) -> frozenset[str]:
        self.now_s += 5
        return self.recalled.current()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_list_is_read_when_it_appears_changes_and_goes(rig: Rig) -> None:
    none = rig.current()
    assert none == frozenset()
    write_recalled(rig.path.parent, ["aa", "bb"])
    assert rig.recalled.current() is none  # looked at once a second
    first = rig.current()
    assert first == {"aa", "bb"}
    assert rig.current() is first
    write_recalled(rig.path.parent, ["aa", "bb", "cc"])
    assert rig.current() == {"aa", "bb", "cc"}
    rig.path.unlink()
    assert rig.current() == frozenset()


def test_what_was_known_stays_while_the_list_cannot_be_read(rig: Rig) -> None:
    write_recalled(rig.path.parent, ["aa"])
    known = rig.current()
    rig.path.write_bytes(b"\xff\xfe")
    assert rig.current() is known
    rig.path.unlink()
    rig.path.mkdir()
    assert rig.current() is known


def test_an_unchanged_list_is_not_written_again(tmp_path: Path) -> None:
    write_recalled(tmp_path, ["aa"])
    before = os.stat(tmp_path / FILE_NAME)
    write_recalled(tmp_path, ["aa"])
    assert os.stat(tmp_path / FILE_NAME).st_ino == before.st_ino
    write_recalled(tmp_path / "none-yet-and-none-recalled", [])


def test_a_fingerprint_is_that_of_the_certificate_that_a_peer_shows(tmp_path: Path) -> None:
    Authority.create(tmp_path).issue("runtime")
    pem = (tmp_path / "runtime.crt").read_bytes()
    assert peer_fingerprint({"x509_pem_cert": [pem]}) == fingerprint(pem)
    assert peer_fingerprint({}) == ""


def test_what_expires_is_forgotten_and_what_is_recalled_survives(tmp_path: Path) -> None:
    now_s = 100.0
    recalled = Recalled(tmp_path, tmp_path, lambda: now_s)
    recalled.add({"aa": 150.0, "bb": 300.0})
    now_s = 200.0
    recalled.add({"cc": 300.0})
    assert recalled.current() == ["bb", "cc"]
    assert Recalled(tmp_path, tmp_path, lambda: now_s).current() == ["bb", "cc"]
    assert (tmp_path / FILE_NAME).read_text().split() == ["bb", "cc"]


def test_a_first_host_does_not_start_without_what_it_has_recalled(tmp_path: Path) -> None:
    (tmp_path / "recalled.json").write_text("[]")
    with pytest.raises(IllegalState, match="restore it"):
        Recalled(tmp_path, tmp_path, lambda: 0.0)
