"""A full disk and a database that cannot be written: refused before it is acknowledged, or kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc import aio

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1.job_pb2_grpc import JobServiceStub
from tests.chaos.jobs.calls import METADATA, JobsCalls
from tests.chaos.jobs.processes import JobsMesh, Shape, running
from tests.chaos.jobs.record import Record
from tests.fakes.postgres import PostgresServer, postgres_server
from tests.fakes.small_disk import needs_mount, small_disk

ENDS_WITHIN_S = 120.0
LEASE_S = 10.0
LARGE = "x" * 50_000
REFUSED_AFTER = 400
"""Until then the database has free pages of its own."""
REFUSALS = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


@dataclass(frozen=True)
class Fault:
    """A database that can be made to refuse what is written, and mended."""

    url: str
    break_: Callable[[], None]
    mend: Callable[[], None]


@contextlib.contextmanager
def full_sqlite(folder: Path) -> Iterator[Fault]:
    with small_disk(folder / "disk", size="8m") as disk:
        yield Fault(f"sqlite:///{disk.path / 'jobs.db'}", disk.fill, disk.free)


@contextlib.contextmanager
def full_postgres(folder: Path) -> Iterator[Fault]:
    del folder  # the server runs as another user, who cannot reach it
    with (
        tempfile.TemporaryDirectory(prefix="mlxmesh-chaos-") as open_folder,
        small_disk(Path(open_folder, "disk"), size="24m") as disk,
        postgres_server() as server,
    ):
        Path(open_folder).chmod(0o755)
        place = disk.path / "tables"
        place.mkdir()
        owner = Path(server.url("postgres").host).stat()
        os.chown(place, owner.st_uid, owner.st_gid)
        server.sql(f"CREATE TABLESPACE small LOCATION '{place}'")
        url = server.create_database()
        server.sql(f"ALTER DATABASE {url.database} SET TABLESPACE small")
        yield Fault(str(url), disk.fill, disk.free)


@contextlib.contextmanager
def read_only_postgres(folder: Path) -> Iterator[Fault]:
    del folder
    with postgres_server() as server:
        url = server.create_database()
        yield Fault(str(url), lambda: _read_only(server, "on"), lambda: _read_only(server, "off"))


@contextlib.contextmanager
def stopped_postgres(folder: Path) -> Iterator[Fault]:
    del folder
    with postgres_server() as server:
        yield Fault(str(server.create_database()), server.stop, server.start)


def _read_only(server: PostgresServer, value: str) -> None:
    server.sql(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    server.sql("SELECT pg_reload_conf()")


FAULTS = {
    "sqlite is full": full_sqlite,
    "postgres is full": full_postgres,
    "postgres is read-only": read_only_postgres,
    "postgres is stopped": stopped_postgres,
}


def simulated(job_id: str, value: str = "", **arguments: float) -> pb.SubmitJobRequest:
    text = json.dumps({**arguments, "value": value})
    work = pb.ConnectorWork(connector="simulation_http", arguments_json=text)
    return pb.SubmitJobRequest(job_id=job_id, connector=work)


async def submit_until_refused(mesh: JobsMesh, calls: JobsCalls) -> tuple[list[str], list[str]]:
    """What was acknowledged, and what was refused."""
    acknowledged, refused = list[str](), list[str]()
    for number in range(REFUSED_AFTER):
        job_id = f"large-{number}"
        request = simulated(job_id, LARGE)
        [address, *_] = await mesh.addresses()
        status = await _submitted(calls.stub(address), request)
        if status is grpc.StatusCode.OK:
            acknowledged.append(job_id)
            continue
        assert status in REFUSALS
        refused.append(job_id)
        if len(refused) == 3:
            return acknowledged, refused
    raise AssertionError("nothing is refused")


async def _submitted(stub: JobServiceStub, request: pb.SubmitJobRequest) -> grpc.StatusCode:
    try:
        await stub.SubmitJob(request, timeout=20, metadata=METADATA)
    except aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@needs_mount
@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("longer_than_lease", [False, True])
async def test_nothing_acknowledged_is_lost(
    kind: str, longer_than_lease: bool, tmp_path: Path
) -> None:
    with FAULTS[kind](tmp_path) as fault:
        lease_s = 2.0 if longer_than_lease else LEASE_S
        shape = Shape(jobs=1, workers=2, lease_s=lease_s, database_url=fault.url)
        async with running(shape, tmp_path) as mesh:
            calls = JobsCalls(mesh.addresses)
            try:
                await _broken_and_mended(mesh, calls, fault, wait_s=6 if longer_than_lease else 2)
            finally:
                await calls.close()


async def _broken_and_mended(
    mesh: JobsMesh, calls: JobsCalls, fault: Fault, *, wait_s: float
) -> None:
    ids = [f"job-{number}" for number in range(8)]
    await calls.submit([simulated(each, LARGE, duration_s=2, steps=4) for each in ids])
    fault.break_()
    acknowledged, refused = await submit_until_refused(mesh, calls)
    await asyncio.sleep(wait_s)
    fault.mend()
    acknowledged += ids
    more = [f"more-{number}" for number in range(8)]
    await calls.submit([simulated(each) for each in more])
    ended = await calls.ended([*acknowledged, *more], ENDS_WITHIN_S)
    assert [each.job_id for each in ended if each.state != pb.JOB_STATE_COMPLETED] == []
    known = {job.job_id async for job in calls.listed()}
    assert known == {*acknowledged, *more}, f"refused: {refused}"
    assert set(_effects(mesh, known)) == {1}


def _effects(mesh: JobsMesh, job_ids: set[str]) -> Sequence[int]:
    record = Record(mesh.record)
    record.read()
    assert record.by_job.keys() == job_ids
    return [sum(each.event == "effect" for each in events) for events in record.by_job.values()]
