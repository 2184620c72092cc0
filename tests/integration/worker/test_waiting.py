"""Generations without output have news while the mesh says that it has them, and no longer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.job.v1 import job_pb2, worker_pb2
from mlxmesh_worker.convert import assignment
from mlxmesh_worker.instances import Instances
from mlxmesh_worker.kinds.embedding import Embeddings
from mlxmesh_worker.kinds.embedding_link import EmbeddingLink
from mlxmesh_worker.kinds.generation import GenerationRunner
from mlxmesh_worker.kinds.request import RequestRunner
from mlxmesh_worker.kinds.translation_link import TranslationLink
from mlxmesh_worker.outbox import Outbox
from mlxmesh_worker.reports import AttemptReports
from mlxmesh_worker.work import AttemptKey, Runner
from tests.chaos.proxy import Proxy
from tests.fakes.job_service import OWNER
from tests.fakes.waiting import until
from tests.integration.worker.harness import Rig, generation, generation_instance, running_rig
from tests.integration.worker.test_requests import COMPLETIONS, gateway

LOOK_INTERVAL_S = 0.05


@pytest.fixture
async def rig(tmp_path: Path, tokenizer_dir: Path) -> AsyncIterator[Rig]:
    async with running_rig(tmp_path, tokenizer_dir) as running, gateway(running):
        running.mesh.engine.may_step.clear()
        yield running


@pytest.fixture
async def proxy(rig: Rig) -> AsyncIterator[Proxy]:
    """All that reaches the generation service goes through it."""
    async with Proxy(rig.mesh.server.address) as proxy:
        await rig.registry.register(generation_instance(proxy.address))
        yield proxy


@asynccontextmanager
async def following(rig: Rig, service: str) -> AsyncIterator[Instances]:
    instances = Instances(rig.registry, service)
    await instances.start()
    try:
        yield instances
    finally:
        await instances.close()


@asynccontextmanager
async def attempt(runner: Runner, **work: Any) -> AsyncIterator[Outbox]:
    """What an attempt sends; it is dropped at the end."""
    outbox, key = Outbox(), AttemptKey("job-1", 1)
    reports = AttemptReports(key, outbox, progress_interval_s=0.01, repeat_interval_s=0.02)
    message = worker_pb2.Assignment(
        id=worker_pb2.AttemptId(job_id=key.job_id, attempt=key.attempt), owner=OWNER, **work
    )
    running = asyncio.create_task(runner.run(assignment(message), reports))
    try:
        yield outbox
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        reports.close()


async def has_news_only_while_it_is_answered(outbox: Outbox, proxy: Proxy) -> None:
    await until(lambda: len(outbox) >= 5)
    assert {each.WhichOneof("news") for each in outbox.take(1)} <= {"progress", "outputs"}
    proxy.down.stall()
    before = -1
    async with asyncio.timeout(30):
        while len(outbox) != before:  # an answer may have been on its way
            before = len(outbox)
            await asyncio.sleep(20 * LOOK_INTERVAL_S)


async def test_a_generation_that_waits_has_news(rig: Rig, proxy: Proxy) -> None:
    async with following(rig, "generation") as instances:
        runner = GenerationRunner(instances, look_interval_s=LOOK_INTERVAL_S)
        kind = job_pb2.JOB_KIND_GENERATION
        request = generation(request_id="job-1")
        async with attempt(runner, kind=kind, generation=request) as outbox:
            await has_news_only_while_it_is_answered(outbox, proxy)


async def test_a_request_of_a_batch_that_waits_has_news(rig: Rig, proxy: Proxy) -> None:
    async with following(rig, "generation") as instances, following(rig, "gateway") as gateways:
        runner = RequestRunner(
            *(instances, TranslationLink(gateways), Embeddings(EmbeddingLink(instances))),
            look_interval_s=LOOK_INTERVAL_S,
        )
        work = worker_pb2.RequestWork(
            endpoint=COMPLETIONS, body_json='{"model": "pocket", "prompt": "x"}'
        )
        async with attempt(runner, kind=job_pb2.JOB_KIND_REQUEST, request=work) as outbox:
            await has_news_only_while_it_is_answered(outbox, proxy)
