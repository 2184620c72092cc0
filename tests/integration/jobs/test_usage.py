"""What jobs use is reported to the access service, and quotas see it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh_shared.registry import Instance
from tests.fakes.job_worker import WAIT_S, completed
from tests.fakes.policy_service import FakePolicyService, policy_server
from tests.fakes.serving import serving

from .conftest import Service

MINUTE, DAY, MONTH = 2, 3, 4


@asynccontextmanager
async def access_of(service: Service) -> AsyncGenerator[FakePolicyService]:
    """An access service that the registry lists."""
    fake = FakePolicyService()
    async with serving(policy_server(fake)) as address:
        await service.registry.register(Instance("access", "access-1", address, 1))
        yield fake


async def run_one(service: Service, job_id: str, tokens: int) -> None:
    worker = await service.worker(f"worker-{job_id}")
    await service.ada.submit(job_id)
    assignment = await worker.next()
    used = {"model": "chat", "model_version": 3, "prompt_tokens": tokens, "completion_tokens": 1}
    await worker.report(completed(assignment, **used))
    await service.kill(worker)


async def test_usage_is_reported_once_an_access_service_is_there(service: Service) -> None:
    await run_one(service, "j1", 10)
    async with access_of(service) as access:
        async with asyncio.timeout(WAIT_S):
            while not access.batches:
                await asyncio.sleep(0.02)
        [batch] = access.batches.values()
        [record] = batch.records
        assert (record.principal, record.user, record.model) == ("user:ada", "ada", "chat")
        assert (record.amounts.requests, record.amounts.prompt_tokens) == (1, 10)
        async with asyncio.timeout(WAIT_S):
            while len(access.spent) < 3:
                await asyncio.sleep(0.02)
        assert set(access.spent.values()) == {11}


async def test_a_report_that_failed_is_repeated_as_it_was(sqlite_service: Service) -> None:
    async with access_of(sqlite_service) as access:
        access.lost_answers = 1
        await run_one(sqlite_service, "j1", 10)
        async with asyncio.timeout(WAIT_S):
            while not access.batches:
                await asyncio.sleep(0.02)
        assert len(access.batches) == 1


async def test_nobody_starts_jobs_beyond_a_quota(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with access_of(service) as access:
        access.left = {('user: "ada"', DAY): 0}
        await run_one(service, "j1", 10)
        async with asyncio.timeout(WAIT_S):
            while len(access.spent) < 3 or "is used up" not in caplog.text:
                await asyncio.sleep(0.02)
        worker = await service.worker("worker-2")
        await service.ada.submit("blocked")
        await service.bob.submit("other")
        assert (await worker.next()).id.job_id == "other"
        assert (await service.ada.job("blocked")).state == pb.JOB_STATE_WAITING
