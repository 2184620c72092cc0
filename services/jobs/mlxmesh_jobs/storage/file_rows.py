"""The rows of files; each statement runs in its caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlxmesh_jobs.domain.ports import StoredFile
from mlxmesh_jobs.storage.details import decode_owner, encode_owner
from mlxmesh_jobs.storage.rows import insert, select
from mlxmesh_shared.errors import FileNotFound, FilesFull
from mlxmesh_shared.sql.database import Row, Session, Value

PIECE_BYTES = 1_048_576
_UPLOAD_MS = 86_400_000
"""How long a file may be incomplete without anything new."""
_AT_A_TIME = 16
_COLUMNS = (
    "file_id",
    "name",
    "purpose",
    "size_bytes",
    "sha256",
    "media_type",
    "complete",
    "owner",
    "created_ms",
    "expires_ms",
    "job_id",
)
_READERS = (
    "SELECT j.job_id FROM job_files AS f JOIN jobs AS j ON j.key = f.job_key"
    " WHERE f.file_id = {file_id} AND j.state < 5"
)


async def find(session: Session, file_id: str) -> StoredFile | None:
    """A file, if it exists."""
    rows = await session.fetch("SELECT * FROM files WHERE file_id = $1", file_id)
    return _file(rows[0]) if rows else None


async def existing(session: Session, file_id: str) -> StoredFile:
    """A file. Raises: FileNotFound."""
    file = await find(session, file_id)
    if file is None:
        raise FileNotFound(f"there is no file {file_id}", field="file_id")
    return file


async def check_room(session: Session, principal: str, more_bytes: int, max_bytes: int) -> None:
    """Raises: FilesFull if the files of a principal may not grow by so much."""
    [row] = await session.fetch(
        "SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) AS bytes FROM files"
        " WHERE principal = $1",
        principal,
    )
    if row["bytes"] + more_bytes > max_bytes:
        raise FilesFull(f"the files of {principal} may have {max_bytes} bytes in all; delete some")


async def insert_file(session: Session, file: StoredFile, now_ms: int) -> None:
    """Begins a file."""
    values: dict[str, Value] = {name: getattr(file, name) for name in _COLUMNS}
    values |= {"owner": encode_owner(file.owner), "complete": int(file.complete)}
    values |= {"principal": file.owner.principal, "appended_ms": now_ms}
    await insert(session, "files", list(values), [list(values.values())])


async def append(session: Session, file: StoredFile, data: bytes, now_ms: int) -> None:
    """Adds bytes at the end, in pieces."""
    rows = [
        (file.file_id, file.size_bytes + start, data[start : start + PIECE_BYTES])
        for start in range(0, len(data), PIECE_BYTES)
    ]
    await insert(session, "file_pieces", ("file_id", "offset_bytes", "data"), rows)
    await session.fetch(
        "UPDATE files SET size_bytes = $2, appended_ms = $3 WHERE file_id = $1",
        file.file_id,
        file.size_bytes + len(data),
        now_ms,
    )


async def complete(session: Session, file: StoredFile, sha256: str) -> StoredFile:
    """The file, which does not change any more."""
    sql = "UPDATE files SET complete = 1, sha256 = $2 WHERE file_id = $1"
    await session.fetch(sql, file.file_id, sha256)
    return replace(file, complete=True, sha256=sha256)


async def read_piece(session: Session, *, file_id: str, offset: int) -> bytes:
    """The bytes from an offset to the end of its piece; empty at the end of the file."""
    rows = await session.fetch(
        "SELECT offset_bytes, data FROM file_pieces WHERE file_id = $1 AND offset_bytes <= $2"
        " ORDER BY offset_bytes DESC LIMIT 1",
        file_id,
        offset,
    )
    return rows[0]["data"][offset - rows[0]["offset_bytes"] :] if rows else b""


async def read_range(session: Session, file_id: str, start: int, end: int) -> bytes:
    """The bytes between two offsets."""
    found = bytearray()
    while start + len(found) < end:
        found += await read_piece(session, file_id=file_id, offset=start + len(found))
    return bytes(found[: max(0, end - start)])


async def read_page(
    session: Session,
    *,
    equal: Mapping[str, Value],
    oldest_first: bool,
    after: tuple[int, str] | None,
    limit: int,
) -> list[StoredFile]:
    """Files after a position.

    equal: what columns have to be; an empty value for whatever they are.
    """
    values: list[Value] = [limit]
    conditions = ["1 = 1"]
    for name, value in equal.items():
        if value:
            values.append(value)
            conditions.append(f"{name} = ${len(values)}")
    if after is not None:
        values += after
        places = f"(${len(values) - 1}, ${len(values)})"
        conditions.append(f"(created_ms, file_id) {'>' if oldest_first else '<'} {places}")
    order = "ASC" if oldest_first else "DESC"
    rows = await session.fetch(
        f"SELECT * FROM files WHERE {' AND '.join(conditions)}"  # noqa: S608
        f" ORDER BY created_ms {order}, file_id {order} LIMIT $1",
        *values,
    )
    return [_file(row) for row in rows]


async def reader(session: Session, file_id: str) -> str:
    """A job that reads a file and has not ended; empty without one."""
    rows = await session.fetch(f"{_READERS.format(file_id='$1')} LIMIT 1", file_id)
    return rows[0]["job_id"] if rows else ""


async def remove(session: Session, file_ids: Sequence[str]) -> None:
    """Removes files."""
    for table in ("file_pieces", "files"):
        await select(session, f"DELETE FROM {table} WHERE file_id IN ({{wanted}})", file_ids)  # noqa: S608


async def prune(session: Session, now_ms: int) -> int:
    """Removes some files that have expired, or that were never completed."""
    unread = f"NOT EXISTS ({_READERS.format(file_id='files.file_id')})"
    rows = [
        *await session.fetch(
            f"SELECT file_id FROM files WHERE expires_ms > 0 AND expires_ms <= $1 AND {unread}"  # noqa: S608
            " LIMIT $2",
            now_ms,
            _AT_A_TIME,
        ),
        *await session.fetch(
            "SELECT file_id FROM files WHERE complete = 0 AND appended_ms <= $1 LIMIT $2",
            now_ms - _UPLOAD_MS,
            _AT_A_TIME,
        ),
    ]
    found = sorted({row["file_id"] for row in rows})
    await remove(session, found)
    return len(found)


def _file(row: Row) -> StoredFile:
    values = {name: row[name] for name in _COLUMNS}
    values |= {"complete": bool(row["complete"]), "owner": decode_owner(row["owner"])}
    return StoredFile(**values)
