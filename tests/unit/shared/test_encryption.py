"""Encryption of what a copy of the database must not reveal, and the file with its secret."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from mlxmesh_shared.encryption import KEY_BYTES, Cipher, load_or_create_secret
from mlxmesh_shared.errors import IllegalState

SECRET = bytes(range(KEY_BYTES))


def test_only_the_same_secret_and_purpose_decrypt() -> None:
    encrypted = Cipher(SECRET, "one").encrypt(b"private")
    assert b"private" not in encrypted
    assert Cipher(SECRET, "one").decrypt(encrypted) == b"private"
    assert Cipher(SECRET, "another").decrypt(encrypted) is None
    assert Cipher(bytes(KEY_BYTES), "one").decrypt(encrypted) is None
    assert Cipher(SECRET, "one").decrypt(encrypted[:-2] + b"AA") is None
    assert Cipher(SECRET, "one").decrypt(b"") is None


def test_the_secret_is_created_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "access.secret"
    secret = load_or_create_secret(path)
    assert len(secret) == KEY_BYTES
    assert secret != SECRET
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_secret(path) == secret
    assert [file.name for file in path.parent.iterdir()] == ["access.secret"]


async def test_processes_that_begin_together_agree_on_one_secret(tmp_path: Path) -> None:
    path = tmp_path / "access.secret"
    loading = [asyncio.to_thread(load_or_create_secret, path) for _ in range(32)]
    assert len(set(await asyncio.gather(*loading))) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "access.secret"
    load_or_create_secret(path)
    path.chmod(mode)
    with pytest.raises(IllegalState, match=f"chmod 600 {path}"):
        load_or_create_secret(path)


@pytest.mark.parametrize("content", [b"", b"00", b"g" * 64, b"\xff" * 64, b"00" * 33])
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "access.secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IllegalState, match="damaged") as refused:
        load_or_create_secret(path)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IllegalState, match="cannot be used"):
        load_or_create_secret(tmp_path / "file" / "access.secret")


def test_the_umask_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create_secret(tmp_path / "access.secret")
    finally:
        os.umask(before)
    assert (tmp_path / "access.secret").stat().st_mode & 0o777 == 0o600
