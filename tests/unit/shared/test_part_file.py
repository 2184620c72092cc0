"""Partially downloaded files."""

import hashlib

import pytest

from mlxmesh_shared.artifacts.part_file import PartFile
from mlxmesh_shared.artifacts.remote_file import RemoteFile

CONTENT = b"weights of a model"


def by_sha256(content: bytes = CONTENT, name: str = "model.safetensors") -> RemoteFile:
    return RemoteFile(name, len(content), hashlib.sha256(content).hexdigest(), "")


def by_git(content: bytes = CONTENT) -> RemoteFile:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return RemoteFile("config.json", len(content), "", oid)


@pytest.mark.parametrize("file", [by_sha256(), by_git(), by_sha256(b""), by_git(b"")])
def test_complete_and_correct(tmp_path, file):
    part = PartFile(file, tmp_path / "new")
    content = CONTENT if file.size_bytes else b""
    assert part.size_bytes == 0
    for start in range(0, len(content), 5):
        part.write_at(start, content[start : start + 5])
    assert part.size_bytes == len(content)
    assert part.verified() == hashlib.sha256(content).hexdigest()
    assert part.path.read_bytes() == content


@pytest.mark.parametrize("file", [by_sha256(), by_git()])
@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"!", CONTENT[::-1]])
def test_wrong_content_is_removed(tmp_path, file, content):
    part = PartFile(file, tmp_path)
    part.write_at(0, content)
    assert part.verified() == ""
    assert list(tmp_path.iterdir()) == []


def test_starting_over_truncates_the_file(tmp_path):
    part = PartFile(by_sha256(), tmp_path)
    part.write_at(0, b"something longer than the real content")
    part.write_at(0, CONTENT)
    assert part.verified()


def test_starting_over_leaves_other_names_of_the_file_as_they_are(tmp_path):
    part = PartFile(by_sha256(), tmp_path)
    part.write_at(0, b"old")
    (tmp_path / "other").hardlink_to(part.path)
    part.write_at(0, CONTENT)
    assert (tmp_path / "other").read_bytes() == b"old"


def test_other_content_has_another_path(tmp_path):
    old = PartFile(by_sha256(b"old"), tmp_path)
    old.write_at(0, b"o")
    assert PartFile(by_sha256(b"new"), tmp_path).size_bytes == 0
