"""SQL statements of downloads, for both databases; each runs in its caller's transaction."""

from mlxmesh_model.hub import rows
from mlxmesh_model.hub.download import Download, State
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.statements import upsert

_PUT = upsert(
    "downloads", ("download_id", "created_us", "state", "ended_us", "content"), ("download_id",)
)


async def find(session: Session, download_id: str) -> Download | None:
    """A download by its id, also one that is being deleted."""
    found = await session.fetch("SELECT content FROM downloads WHERE download_id = $1", download_id)
    return rows.to_download(found[0]["content"]) if found else None


async def read_all(session: Session) -> list[Download]:
    """Every download, the newest first, also those that are being deleted."""
    found = await session.fetch(
        "SELECT content FROM downloads ORDER BY created_us DESC, download_id DESC"
    )
    return [rows.to_download(row["content"]) for row in found]


async def read_page(session: Session, *, before: tuple[int, str], limit: int) -> list[Download]:
    """Downloads, the newest first, from before a position on."""
    created_us, download_id = before
    found = await session.fetch(
        "SELECT content FROM downloads WHERE state <> $1"
        " AND (created_us < $2 OR (created_us = $3 AND download_id < $4))"
        " ORDER BY created_us DESC, download_id DESC LIMIT $5",
        *(State.DELETING.value, created_us, created_us, download_id, limit),
    )
    return [rows.to_download(row["content"]) for row in found]


def position(download: Download) -> tuple[int, str]:
    """Where a download is in the list of all."""
    return round(download.created_at.timestamp() * 1_000_000), download.download_id


async def put(session: Session, download: Download) -> None:
    """Stores a download."""
    created_us, download_id = position(download)
    ended = download.ended_at
    ended_us = round(ended.timestamp() * 1_000_000) if ended is not None else 0
    content = rows.download_text(download)
    await session.fetch(_PUT, download_id, created_us, download.state.value, ended_us, content)


async def delete(session: Session, download_id: str) -> None:
    """Removes the row of a download."""
    await session.fetch("DELETE FROM downloads WHERE download_id = $1", download_id)


async def prune(session: Session, *, before_us: int) -> int:
    """Removes downloads that completed before a time; returns how many."""
    where = "ended_us > 0 AND ended_us < $1"
    found = await session.fetch(f"SELECT download_id FROM downloads WHERE {where}", before_us)  # noqa: S608
    if found:
        await session.fetch(f"DELETE FROM downloads WHERE {where}", before_us)  # noqa: S608
    return len(found)


async def sequence(session: Session) -> int:
    """A number that every change of a download makes larger."""
    [row] = await session.fetch("SELECT value FROM download_counter")
    return row["value"]


async def count_change(session: Session) -> None:
    """Tells the other processes that something has changed."""
    await session.fetch("UPDATE download_counter SET value = value + 1")
