"""Lists of files from other processes."""

import json

import pytest

from mlxmesh_shared.artifacts.digests import digest_of
from mlxmesh_shared.artifacts.manifest import FileIdentity, Manifest, ManifestFile
from mlxmesh_shared.errors import FetchFailed

SHA256 = "a" * 64


def manifest(*names: str, sha256: str = SHA256) -> Manifest:
    identity = FileIdentity(1, 2, 3)
    files = tuple(ManifestFile(name, 5, sha256, identity) for name in names)
    return Manifest(digest_of(dict.fromkeys(names, sha256)), files)


@pytest.mark.parametrize("name", ["config.json", "1_Pooling/config.json", "_a.b-c"])
def test_names_of_files_of_a_directory(name: str) -> None:
    assert manifest(name).checked().files[0].name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/../b",
        "a/b/c",
        "a//b",
        "a/",
        ".hidden",
        "a\\b",
        "a\n",
    ],
)
def test_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(FetchFailed):
        manifest(name).checked()


def test_lists_that_no_process_makes() -> None:
    with pytest.raises(FetchFailed):
        manifest().checked()
    with pytest.raises(FetchFailed):
        manifest("config.json", "config.json").checked()
    with pytest.raises(FetchFailed):
        manifest("config.json", sha256="../../x").checked()


def test_the_digest_of_a_version_proves_its_files() -> None:
    told = manifest("a", "b")
    assert told.is_of_version
    assert not Manifest(told.digest, told.files[:1]).is_of_version
    assert not Manifest(SHA256, told.files).is_of_version
    assert told.total_bytes == 10


def test_on_disk_it_is_the_same_without_what_one_host_saw() -> None:
    told = manifest("a", "b")
    read = Manifest.from_json(json.loads(told.to_json()))
    assert read.digests == told.digests
    assert read.digest == told.digest
    assert [file.identity for file in read.files] == [None, None]
