"""Certificate files: what cannot be used is told, and a half-done rotation changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.tls import CertificateFiles, CertificateSource, open_certificates
from tests.fakes.certificates import issue_all, source


def test_without_a_directory_there_is_no_tls() -> None:
    assert open_certificates(MeshSettings(), "gateway") is None


def test_a_directory_without_them_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IllegalState, match=r"ca\.crt.*mlxmesh certs"):
        open_certificates(MeshSettings(tls_dir=tmp_path), "gateway")


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    issue_all(tmp_path)
    files = CertificateFiles(tmp_path / "ca.crt", tmp_path / "gateway.crt", tmp_path / "engine.key")
    with pytest.raises(IllegalState, match="the key must be the certificate's own"):
        CertificateSource(files)


@pytest.mark.parametrize("name", ["ca.crt", "gateway.crt", "gateway.key"])
def test_what_is_no_pem_is_refused(tmp_path: Path, name: str) -> None:
    issue_all(tmp_path)
    (tmp_path / name).write_text("nonsense")
    with pytest.raises(IllegalState, match="PEM"):
        CertificateSource(CertificateFiles.of_role(tmp_path, "gateway"))


def test_nothing_changes_while_the_files_do_not(tmp_path: Path) -> None:
    issue_all(tmp_path)
    certificates = source(tmp_path, "gateway")
    assert certificates.current() is certificates.current()


def test_a_half_done_rotation_keeps_the_last_good_ones(tmp_path: Path) -> None:
    issue_all(tmp_path / "old")
    issue_all(tmp_path / "new")
    certificates = source(tmp_path / "old", "gateway")
    before = certificates.current()

    shutil.copy(tmp_path / "new" / "gateway.key", tmp_path / "old" / "gateway.key")
    assert certificates.current() is before
    shutil.copy(tmp_path / "new" / "gateway.crt", tmp_path / "old" / "gateway.crt")
    assert certificates.current().certificate == (tmp_path / "new" / "gateway.crt").read_bytes()


def test_files_that_are_gone_keep_the_last_good_ones(tmp_path: Path) -> None:
    issue_all(tmp_path)
    certificates = source(tmp_path, "gateway")
    before = certificates.current()
    shutil.rmtree(tmp_path)
    assert certificates.current() is before


def test_keys_are_not_shown(tmp_path: Path) -> None:
    issue_all(tmp_path)
    shown = repr(source(tmp_path, "gateway").current())
    assert "PRIVATE" not in shown
    assert "BEGIN" not in shown
