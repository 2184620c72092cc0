"""Files are read again only when they may have changed."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from mlxmesh_shared.artifacts.known_digests import KnownDigests


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def unreadable_to_us(path: Path) -> None:
    """Changes the content behind the back of the file's status."""
    found = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    return path


def test_a_file_is_read_once(tmp_path: Path, file: Path) -> None:
    known = KnownDigests(tmp_path / "memory.json")
    assert known.sha256(file) == digest(b"bytes")
    unreadable_to_us(file)
    assert known.sha256(file) == digest(b"bytes")
    assert KnownDigests(tmp_path / "memory.json").sha256(file) == digest(b"bytes")


def test_a_file_that_was_written_is_read_again(tmp_path: Path, file: Path) -> None:
    known = KnownDigests(tmp_path / "memory.json")
    known.sha256(file)
    unreadable_to_us(file)
    os.utime(file, ns=(0, 1))
    assert known.sha256(file) == digest(b"other")
    replaced = tmp_path / "new"
    replaced.write_bytes(b"third")
    os.utime(replaced, ns=(0, 1))
    replaced.replace(file)
    assert known.sha256(file) == digest(b"third")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}', b'{"a": [[1], 2, 3]}'])
def test_a_damaged_memory_is_forgotten(tmp_path: Path, file: Path, content: bytes) -> None:
    (tmp_path / "memory.json").write_bytes(content)
    assert KnownDigests(tmp_path / "memory.json").sha256(file) == digest(b"bytes")


def test_a_memory_that_cannot_be_written(tmp_path: Path, file: Path) -> None:
    known = KnownDigests(file / "memory.json")
    assert known.sha256(file) == digest(b"bytes")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        KnownDigests(tmp_path / "memory.json").sha256(tmp_path / "none")
