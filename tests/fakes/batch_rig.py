"""Batches on a real database, with workers that answer at once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mlxmesh.job.v1 import job_pb2, worker_pb2
from mlxmesh_jobs.batches.runner import Batches
from mlxmesh_jobs.clock import system_clock
from mlxmesh_jobs.domain.jobs import (
    Capability,
    Claim,
    Completed,
    Failed,
    FailureFacts,
    Kind,
    NewJob,
    Owner,
    Stopped,
    Update,
)
from mlxmesh_jobs.domain.ports import StoredFile
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.storage.batches import SqlBatchStore
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.files import SqlFileStore
from mlxmesh_jobs.storage.store import SqlJobStore
from mlxmesh_jobs.workers.convert import from_update
from mlxmesh_shared.sql.urls import DatabaseUrl

OWNER = Owner(owner="user:ada", principal="user:ada", share="user:ada", user="ada")
CHAT = "/v1/chat/completions"
PIECE_BYTES = 1_048_576
GIB = 2**30
FAILURE = FailureFacts(code=3, reason="INVALID_FIELD", message="it cannot be done")
Answer = Callable[[str, dict[str, Any]], Completed | Failed]


def answer(custom_id: str, body: dict[str, Any]) -> Completed | Failed:
    """200 with what was asked; 400 and no response at all for what asks for them, as a jobs service
    has them from its workers.
    """
    if body.get("fails"):
        return Failed(failure=FAILURE, fault=Fault.JOB)
    result = job_pb2.RequestResult(
        status_code=400 if body.get("refused") else 200,
        request_id=f"gen-{custom_id}",
        body_json=json.dumps({"asked": body, "id": custom_id}),
        prompt_tokens=2,
        completion_tokens=1,
    )
    used = worker_pb2.UsedAmounts(model="pocket", prompt_tokens=2, completion_tokens=1)
    ended = worker_pb2.AttemptResult(request=result, used=used)
    news = from_update(worker_pb2.AttemptUpdate(result=ended), "updates[0]").news
    assert isinstance(news, Completed | Failed)
    return news


def line(custom_id: str, **body: Any) -> bytes:
    """A line of an input file."""
    whole = {"custom_id": custom_id, "method": "POST", "url": CHAT}
    return json.dumps({**whole, "body": {"model": "pocket", **body}}).encode() + b"\n"


@dataclass
class BatchRig:
    """A jobs database, with what a jobs service and its callers do to batches."""

    jobs: SqlJobStore
    batches: SqlBatchStore
    files: SqlFileStore
    owner: Owner = OWNER

    def runner(self, *, pause_s: float = 0.01) -> Batches:
        return Batches(self.jobs, self.batches, self.files, clock=system_clock, pause_s=pause_s)

    async def add_file(self, content: bytes | Iterable[bytes], *, purpose: int = 1) -> str:
        """Stores a file; returns its id."""
        whole = content if isinstance(content, bytes) else b"".join(content)
        file_id = f"file-{hashlib.sha256(whole).hexdigest()[:16]}"
        file = StoredFile(
            file_id=file_id,
            name="in.jsonl",
            purpose=purpose,
            size_bytes=0,
            sha256="",
            media_type="",
            complete=False,
            owner=self.owner,
            created_ms=system_clock(),
            expires_ms=0,
            job_id="",
        )
        await self.files.create(file)
        for start in range(0, len(whole), PIECE_BYTES):
            await self.files.append(file_id, start, whole[start : start + PIECE_BYTES])
        await self.files.finish(file_id, len(whole), "")
        return file_id

    async def submit(self, batch_id: str, file_id: str, *, max_running: int = 0) -> None:
        work = job_pb2.BatchWork(input_file_id=file_id, endpoint=CHAT, max_running=max_running)
        await self.jobs.submit(
            [
                NewJob(
                    job_id=batch_id,
                    kind=Kind.BATCH,
                    queue="batch",
                    owner=self.owner,
                    request=job_pb2.SubmitJobRequest(batch=work).SerializeToString(),
                    digest=b"digest",
                    summary="run a batch",
                    attempt_timeout_s=0,
                    input_files=(file_id,),
                )
            ]
        )

    async def claim(self, session: str, *kinds: Kind, limit: int = 64) -> tuple[int, list[Claim]]:
        """Begins attempts in a session of this name."""
        key = await self.jobs.open_session(session, session)
        claims, _ = await self.jobs.claim(key, Capability(kinds=frozenset(kinds)), limit)
        return key, [*claims]

    async def run_batch(self, session: str) -> Completed | Failed:
        """Claims the waiting batch, and runs it to its end."""
        key, [claim] = await self.claim(session, Kind.BATCH, limit=1)
        news = await self.runner().run(claim)
        await self.jobs.apply(key, [Update(id=claim.id, news=news)])
        return news

    async def end_session(self, session: str) -> None:
        """What becomes of a process that died."""
        for one in await self.jobs.sessions():
            if one.session == session:
                failure = FailureFacts(code=14, reason="WORKER_LOST", message="it was lost")
                await self.jobs.end_session(
                    one.key, beat=None, fault=Fault.WORKER_LOST, failure=failure
                )

    @asynccontextmanager
    async def working(
        self, answer: Answer = answer, *, ran: list[str] | None = None
    ) -> AsyncGenerator[None]:
        """Runs requests until the body ends; ran: the ids of those that were run."""
        working = asyncio.create_task(self._work(answer, [] if ran is None else ran))
        try:
            yield
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _work(self, answer: Answer, ran: list[str]) -> None:
        with self.jobs.subscribe() as changed:
            while True:
                changed.clear()
                key, claims = await self.claim("worker", Kind.REQUEST, limit=256)
                if claims:
                    ran += [claim.id.job_id for claim in claims]
                    updates = [_update(claim, answer) for claim in claims]
                    await self.jobs.apply(key, updates)
                else:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await changed.wait()

    async def content(self, file_id: str) -> bytes:
        """The bytes of a file."""
        return b"".join([piece async for piece in self.files.read(file_id, 0)])

    async def lines(self, file_id: str) -> list[dict[str, Any]]:
        """The lines of a file of results or of errors."""
        return [json.loads(one) for one in (await self.content(file_id)).splitlines()]

    async def result(self, batch_id: str) -> job_pb2.BatchResult:
        """What the batch made."""
        return worker_pb2.AttemptResult.FromString(await self.jobs.result(batch_id)).batch


def _update(claim: Claim, answer: Answer) -> Update:
    work = worker_pb2.RequestWork.FromString(claim.request)
    assert work.endpoint == CHAT
    body = json.loads(work.body_json)
    custom_id = body.get("id", claim.id.job_id)
    news: Completed | Failed | Stopped = answer(custom_id, body)
    return Update(id=claim.id, news=news)


@asynccontextmanager
async def batch_rig(url: DatabaseUrl, *, max_bytes: int = 8 * GIB) -> AsyncGenerator[BatchRig]:
    """The rig on a database, which may be used by others too."""
    database = await JobsDatabase.open(url)
    polling = asyncio.create_task(database.poll_changes(0.05))
    try:
        yield BatchRig(
            SqlJobStore(database),
            SqlBatchStore(database),
            SqlFileStore(database, max_bytes_per_principal=max_bytes),
        )
    finally:
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
        await database.close()


async def collected(pieces: AsyncIterable[Any]) -> list[Any]:
    """All of a stream."""
    return [one async for one in pieces]
