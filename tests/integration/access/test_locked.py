"""A database that another process has locked: writes fail soon and by name, and then work again."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncpg
import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import policy_pb2
from mlxmesh_access.schema import ACCESS
from mlxmesh_shared.errors import DatabaseBusy
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.integration.access.conftest import PASSWORD, Service, Services

Write = Callable[[Service], Awaitable[Any]]
SUBJECT = pb.QuotaSubject(user="ada")
WRITES: list[Write] = [
    lambda service: service.admin.CreateUser(name="new", password=PASSWORD),
    lambda service: service.admin.UpdateUser(name="ada", team="red"),
    lambda service: service.admin.DeleteUser(name="ada"),
    lambda service: service.admin.CreateKey(name="k", user="ada"),
    lambda service: service.admin.RevokeKey(key_id="k_1"),
    lambda service: service.admin.SetQuota(
        subject=SUBJECT, limits=pb.QuotaLimits(tokens_per_day=1)
    ),
    lambda service: service.admin.DeleteQuota(subject=SUBJECT),
    lambda service: service.policies.ReportUsage(policy_pb2.ReportUsageRequest(batch_id="b")),
    lambda service: service.policies.LeaseQuotas(policy_pb2.LeaseQuotasRequest(gateway_id="g")),
]


@asynccontextmanager
async def locked(url: DatabaseUrl) -> AsyncGenerator[None]:
    """The database as long as another process is in the middle of a write."""
    if isinstance(url, SqliteFile):
        with closing(sqlite3.connect(url.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
        return
    other = await asyncpg.connect(host=url.host, user=url.user, database=url.database)
    try:
        async with other.transaction():
            await other.execute(ACCESS.writer_lock)
            yield
    finally:
        await other.close()


async def test_writes_fail_soon_and_reads_go_on(services: Services) -> None:
    service, _ = await services.start()
    await service.add_users("ada")
    before_s = time.monotonic()
    async with locked(services.url):
        failures = await asyncio.gather(
            *(write(service) for write in WRITES for _ in range(3)), return_exceptions=True
        )
        assert (await service.admin.GetUser(name="ada")).user.name == "ada"
        assert len((await service.admin.ListUsers()).users) == 2
        watch = service.policies.WatchPolicies(policy_pb2.WatchPoliciesRequest())
        assert (await anext(aiter(watch))).whole
        watch.cancel()
    assert {type(failure) for failure in failures} == {DatabaseBusy}
    assert {getattr(failure, "retry_delay_s", None) for failure in failures} == {1.0}
    # Not one after another: each alone may wait for 5 s, so all would take two minutes.
    assert time.monotonic() - before_s < 60
    await service.admin.UpdateUser(name="ada", team="red")
    [user] = [user for user in (await service.admin.ListUsers()).users if user.name == "ada"]
    assert user.team == "red"


async def test_a_short_lock_costs_no_call(services: Services) -> None:
    service, _ = await services.start()
    await service.add_users("ada")
    async with locked(services.url):
        writing = asyncio.create_task(service.admin.UpdateUser(name="ada", team="red"))
        await asyncio.sleep(0.5)
        assert not writing.done()
    assert (await writing).user.team == "red"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_cancelled_write_is_complete_or_absent(services: Services) -> None:
    service, _ = await services.start()
    await service.add_users()
    for number in range(10):
        name = f"u{number}"
        call = asyncio.create_task(
            service.admin.CreateUser(name=name, kind=pb.USER_KIND_SERVICE_ACCOUNT)
        )
        await asyncio.sleep(number * 0.001)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await service.admin.CreateUser(name="last", kind=pb.USER_KIND_SERVICE_ACCOUNT)
    users = {user.name for user in (await service.admin.ListUsers()).users}
    entries = (await service.admin.ListAuditEntries()).entries
    assert users == {entry.target.removeprefix("user:") for entry in entries}
