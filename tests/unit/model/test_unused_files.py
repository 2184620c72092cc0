"""Which files of the store nobody needs, and what versions share."""

from pathlib import Path

import pytest

from mlxmesh_model.artifacts.unused import FileOnDisk, Needs, shared_bytes, unused

NOW_S = 1_000_000.0


def file(key: str, *, age_s: float = 0, links: int = 0) -> FileOnDisk:
    return FileOnDisk(Path(key), key, 10, links, NOW_S - age_s)


def keys(*files: FileOnDisk, needs: Needs, after_s: float = 100) -> list[str]:
    found = unused(files, needs, now_s=NOW_S, unfinished_after_s=after_s)
    return [file.key for file in found]


def test_files_of_no_version_are_unused_however_new():
    needs = Needs(frozenset({"a"}), {})
    assert keys(file("a"), file("b"), needs=needs) == ["b"]


def test_a_file_that_some_directory_has_is_used():
    assert keys(file("a", links=1), needs=Needs(frozenset(), {})) == []


@pytest.mark.parametrize(("age_s", "kept"), [(0, True), (99, True), (100, False), (1e9, False)])
def test_an_unfinished_pull_keeps_its_files_while_any_of_them_is_new(age_s: float, kept: bool):
    needs = Needs(frozenset(), {"m@1": frozenset({"old", "part"})})
    found = keys(file("old", age_s=10_000), file("part", age_s=age_s), needs=needs)
    assert found == ([] if kept else ["old", "part"])


def test_a_pull_that_runs_keeps_its_files():
    needs = Needs(frozenset(), {"m@1": frozenset({"old"})}, frozenset({"m@1"}))
    assert keys(file("old", age_s=10_000), needs=needs, after_s=0) == []


def test_without_an_age_every_unfinished_pull_keeps_its_files():
    needs = Needs(frozenset(), {"m@1": frozenset({"old"})})
    assert keys(file("old", age_s=1e9), file("b"), needs=needs, after_s=float("inf")) == ["b"]


def test_a_file_of_a_complete_version_outlives_an_unfinished_pull_of_it():
    needs = Needs(frozenset({"a"}), {"m@2": frozenset({"a", "b"})})
    assert keys(file("a", age_s=1e9), file("b", age_s=1e9), needs=needs) == ["b"]


def test_shared_bytes_are_those_that_another_version_has_too():
    contents = {"m@1": {"a": 10, "b": 5}, "m@2": {"a": 10, "c": 7}, "n@1": {"d": 1}}
    assert shared_bytes(contents) == {"m@1": 10, "m@2": 10, "n@1": 0}
