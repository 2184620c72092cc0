"""The access service as a process: registration, stop, kills, and its reports of problems."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import access_pb2_grpc, policy_pb2, policy_pb2_grpc
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.integration.access.conftest import PASSWORD, url_text

ADMIN = (("mlxmesh-role", "admin"), ("mlxmesh-owner", "spiffe://mlxmesh/admin"))
HOUR = Timestamp(seconds=1_800_000_000)


@asynccontextmanager
async def running(data_dir: Path, **env: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """An access service; it is killed at the end if it still runs."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLXMESH_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mlxmesh_access", "--data-dir", str(data_dir), env=own | env,
        stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def registry_of(data_dir: Path) -> AsyncGenerator[Registry]:
    registry = open_registry(MeshSettings(data_dir=data_dir))
    try:
        yield registry
    finally:
        await registry.close()


async def registered(registry: Registry, process: asyncio.subprocess.Process) -> Instance:
    async with asyncio.timeout(60):
        async for instances in registry.watch("access"):
            for instance in instances:
                if instance.pid == process.pid:
                    return instance
    raise AssertionError("the watch ended")


async def test_it_serves_until_it_is_asked_to_stop(tmp_path: Path) -> None:
    async with registry_of(tmp_path) as registry, running(tmp_path) as process:
        instance = await registered(registry, process)
        async with open_channel(instance.address) as channel:
            policies = policy_pb2_grpc.PolicyServiceStub(channel)
            watch = policies.WatchPolicies(policy_pb2.WatchPoliciesRequest())
            assert (await anext(aiter(watch))).whole
            watch.cancel()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert await registry.resolve("access") == ()


async def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    async with (
        registry_of(tmp_path) as registry,
        running(tmp_path, MLXMESH_EXIT_WITH_PARENT="1") as process,
    ):
        await registered(registry, process)
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "access.db cannot be used: file is not a database; restore a copy of it"),
        ("mysql://me:secret@host/db", "database_url begins with mysql"),
        ("postgresql://me:secret@127.0.0.1:9/db", "check `[access] database_url`"),
    ],
)
async def test_an_unusable_database_is_reported_in_one_line(
    tmp_path: Path, url: str, why: str
) -> None:
    (tmp_path / "access.db").write_bytes(b"not a database" * 100)
    async with running(tmp_path, MLXMESH_ACCESS_DATABASE_URL=url) as process, asyncio.timeout(60):
        _, said = await process.communicate()
        lines = said.decode().splitlines()
    assert process.returncode == 1
    assert [why in line for line in lines] == [True], lines
    assert "secret" not in lines[0]


async def test_usage_and_slices_survive_kills(tmp_path: Path, database: DatabaseUrl) -> None:
    """A gateway repeats each batch until it is answered, while the service is killed again and
    again; each batch counts once, and the limit holds.
    """
    gateway = Gateway()
    async with registry_of(tmp_path) as registry:
        for round_number in range(4):
            url = url_text(database)
            async with running(tmp_path, MLXMESH_ACCESS_DATABASE_URL=url) as process:
                instance = await registered(registry, process)
                async with open_channel(instance.address) as channel:
                    if round_number == 0:
                        await gateway.set_up(channel)
                    work = asyncio.create_task(gateway.work(channel, batches=25))
                    if round_number < 3:
                        await asyncio.sleep(0.15 + 0.1 * round_number)
                        process.kill()
                        await process.wait()
                    await asyncio.gather(work, return_exceptions=True)
                    if round_number == 3:
                        assert await gateway.recorded(channel) == gateway.used
    assert gateway.used >= 25
    assert 0 < gateway.granted <= 50


class Gateway:
    """Leases, spends and reports as a gateway does."""

    def __init__(self) -> None:
        self.used = 0
        self.granted = 0
        self._held = 0
        self._pending: list[policy_pb2.ReportUsageRequest] = []

    async def set_up(self, channel: object) -> None:
        access = access_pb2_grpc.AccessServiceStub(channel)  # pyright: ignore[reportArgumentType]
        user = pb.CreateUserRequest(name="ada", password=PASSWORD, role=pb.ACCESS_ROLE_ADMIN)
        await access.CreateUser(user, metadata=ADMIN)
        quota = pb.SetQuotaRequest(
            subject=pb.QuotaSubject(user="ada"), limits=pb.QuotaLimits(tokens_per_month=50)
        )
        await access.SetQuota(quota, metadata=ADMIN)

    async def work(self, channel: object, *, batches: int) -> None:
        policies = policy_pb2_grpc.PolicyServiceStub(channel)  # pyright: ignore[reportArgumentType]
        for _ in range(batches):
            await self._lease(policies)
            self.used += 1
            amounts = pb.UsageAmounts(requests=1)
            self._pending.append(
                policy_pb2.ReportUsageRequest(
                    batch_id=f"b{self.used}",
                    records=[policy_pb2.UsageRecord(user="ada", hour=HOUR, amounts=amounts)],
                )
            )
            while self._pending:
                await policies.ReportUsage(self._pending[0], timeout=20)
                self._pending.pop(0)

    async def recorded(self, channel: object) -> int:
        access = access_pb2_grpc.AccessServiceStub(channel)  # pyright: ignore[reportArgumentType]
        to = Timestamp(seconds=HOUR.seconds + 3600)
        request = pb.QueryUsageRequest(user="ada", to=to)
        [row] = (await access.QueryUsage(request, metadata=ADMIN)).rows
        return row.amounts.requests

    async def _lease(self, policies: policy_pb2_grpc.PolicyServiceStub) -> None:
        """Spends all that it held, and counts what it gets; what a kill lost was never spent."""
        slices = [
            policy_pb2.SliceRequest(
                subject=pb.QuotaSubject(user="ada"),
                limit=policy_pb2.QUOTA_LIMIT_TOKENS_PER_MONTH,
                spent=self._held,
                wanted=10,
            )
        ]
        request = policy_pb2.LeaseQuotasRequest(gateway_id="g", slices=slices)
        [grant] = (await policies.LeaseQuotas(request, timeout=20)).grants
        self._held = grant.granted
        self.granted += grant.granted


async def test_an_unknown_setting_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    async with running(tmp_path, MLXMESH_ACCESS_LISTN="x") as process:
        _, said = await process.communicate()
        assert process.returncode == 1
        assert b"MLXMESH_ACCESS_LISTEN" in said
        assert said.count(b"\n") == 1


async def test_two_processes_on_one_database_see_each_others_changes(
    tmp_path: Path, database: DatabaseUrl
) -> None:
    url = url_text(database)
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(registry_of(tmp_path))
        channels: list[object] = []
        for _ in range(2):
            running_access = running(tmp_path, MLXMESH_ACCESS_DATABASE_URL=url)
            process = await stack.enter_async_context(running_access)
            instance = await registered(registry, process)
            channels.append(await stack.enter_async_context(open_channel(instance.address)))
        policies = policy_pb2_grpc.PolicyServiceStub(channels[1])  # pyright: ignore[reportArgumentType]
        watch = policies.WatchPolicies(policy_pb2.WatchPoliciesRequest())
        changes = aiter(watch)
        assert (await anext(changes)).whole
        await Gateway().set_up(channels[0])
        async with asyncio.timeout(20):
            change = await anext(changes)
        assert [user.name for user in change.users] == ["ada"]
        watch.cancel()
