"""Decides which files of the store nobody needs. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileOnDisk:
    """A file of the store.

    key: the name of its content. links: the directories that have the same file. changed_at_s: when
    it was last written, by the clock of the host.
    """

    path: Path
    key: str
    size_bytes: int
    links: int
    changed_at_s: float


@dataclass(frozen=True, slots=True)
class Needs:
    """What versions need: contents of complete ones, and of each unfinished pull."""

    complete: frozenset[str]
    unfinished: Mapping[str, frozenset[str]]
    """By the label of the version."""
    running: frozenset[str] = frozenset()
    """Labels of pulls that some call continues now."""


def unused(
    files: Iterable[FileOnDisk], needs: Needs, *, now_s: float, unfinished_after_s: float
) -> list[FileOnDisk]:
    """The files of no version, and those of unfinished pulls without progress for that long."""
    files = list(files)
    kept = needs.complete | _continued(files, needs, now_s - unfinished_after_s)
    return [file for file in files if file.key not in kept and not file.links]


def _continued(files: Collection[FileOnDisk], needs: Needs, since_s: float) -> frozenset[str]:
    """The contents of unfinished pulls that run, or made progress since a time."""
    changed = {file.key: file.changed_at_s for file in files}
    kept: set[str] = set()
    for label, keys in needs.unfinished.items():
        newest_s = max((changed[key] for key in keys if key in changed), default=since_s)
        if label in needs.running or newest_s > since_s:
            kept |= keys
    return frozenset(kept)


def shared_bytes(contents: Mapping[str, Mapping[str, int]]) -> Mapping[str, int]:
    """The bytes of each version's contents that another version has too.

    contents: sizes by key, by the label of the version.
    """
    owners: dict[str, int] = {}
    for sizes in contents.values():
        for key in sizes:
            owners[key] = owners.get(key, 0) + 1
    return {
        label: sum(size for key, size in sizes.items() if owners[key] > 1)
        for label, sizes in contents.items()
    }
