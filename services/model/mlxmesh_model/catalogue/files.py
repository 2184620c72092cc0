"""SQL statements about the files of versions; each runs in its caller's transaction."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime

from mlxmesh_model.catalogue.rows import to_moment
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.statements import upsert

VersionKey = tuple[str, int]
"""A model's name and the number of a version."""

_PUT_FILE = upsert(
    "artifact_files",
    ("model", "number", "name", "bytes", "sha256", "git_oid"),
    ("model", "number", "name"),
)
_PUT_CHECK = upsert(
    "artifact_checks",
    ("model", "number", "damaged_files", "verified_at"),
    ("model", "number"),
)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a version. Its SHA-256 is empty while only a git object id is known, which is so
    for small files that a hub has yet to send.
    """

    name: str
    size_bytes: int
    sha256: str = ""
    git_oid: str = ""

    @property
    def key(self) -> str:
        """The name of its content, as in `RemoteFile`."""
        return self.sha256 or f"git-{self.git_oid}"


async def put_files(session: Session, model: str, number: int, files: Sequence[StoredFile]) -> None:
    """Replaces the files of a version."""
    delete = "DELETE FROM artifact_files WHERE model = $1 AND number = $2"
    await session.fetch(delete, model, number)
    for file in files:
        await session.fetch(_PUT_FILE, model, number, *astuple(file))


async def read_files(session: Session) -> Mapping[VersionKey, tuple[StoredFile, ...]]:
    """The files of all versions, by name."""
    found = defaultdict[VersionKey, list[StoredFile]](list)
    for row in await session.fetch("SELECT * FROM artifact_files ORDER BY model, number, name"):
        file = StoredFile(row["name"], row["bytes"], row["sha256"], row["git_oid"])
        found[row["model"], row["number"]].append(file)
    return {key: tuple(files) for key, files in found.items()}


async def put_check(
    session: Session, model: str, number: int, damaged: Sequence[str], now: datetime
) -> None:
    """Stores what a check of a version found."""
    await session.fetch(_PUT_CHECK, model, number, json.dumps(list(damaged)), now)


async def delete_check(session: Session, model: str, number: int) -> None:
    """Forgets the check of files that were replaced."""
    delete = "DELETE FROM artifact_checks WHERE model = $1 AND number = $2"
    await session.fetch(delete, model, number)


async def read_last_versions(session: Session) -> Mapping[str, int]:
    """The largest version number that each present or removed model ever had."""
    removed = await session.fetch("SELECT name, last_version FROM tombstones")
    present = await session.fetch("SELECT name, last_version FROM models")
    return {row["name"]: row["last_version"] for row in (*removed, *present)}


async def read_check_times(session: Session) -> Mapping[VersionKey, datetime]:
    """When the files of each version were last verified."""
    rows = await session.fetch("SELECT model, number, verified_at FROM artifact_checks")
    return {(row["model"], row["number"]): to_moment(row["verified_at"]) for row in rows}
