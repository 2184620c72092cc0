"""A batch while each kind of process that works on it is killed: every result once, in order."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh_client import MeshClient
from tests.chaos.mesh import SIMULATED, ChaosMesh, Shape, kill, running

REQUESTS, TOKENS = 2_000, 4
ENDS_WITHIN_S = 200.0
VICTIMS = ("worker", "jobs", "generation", "gateway", "worker", "jobs")
FAST = {**SIMULATED, "MLXMESH_ENGINE_SIMULATED_STEP_MS": "1", "MLXMESH_LOG_LEVEL": "info"}


def requests() -> bytes:
    lines = [
        {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "pocket",
                "messages": [{"role": "user", "content": f"Count to {number}."}],
                "max_tokens": TOKENS,
                "seed": number,
                "ignore_eos": True,
            },
        }
        for number in range(REQUESTS)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


async def results_of(client: MeshClient, file_id: str) -> Sequence[dict[str, Any]]:
    content = b"".join([piece async for piece in client.files.read(file_id)])
    return [json.loads(line) for line in content.splitlines()]


async def kill_one_after_the_other(mesh: ChaosMesh, client: MeshClient, batch_id: str) -> None:
    """Each after a part of the requests has ended; another process takes its place at once."""
    chance = random.Random(1)
    for number, service in enumerate(VICTIMS, 1):
        await until_ended(client, batch_id, number * REQUESTS // (len(VICTIMS) + 2))
        instances = await mesh.instances(service)
        added = [each for each in instances if each.address != mesh.address]
        if service == "generation":
            added = [await mesh.added(service)]
        kill(chance.choice(added))
        await mesh.add(service)


async def until_ended(client: MeshClient, batch_id: str, count: int) -> None:
    while True:
        counts = (await client.jobs.get(batch_id)).job.batch
        if counts.completed + counts.failed >= count:
            return
        await asyncio.sleep(0.2)


async def run_batch(
    mesh: ChaosMesh, client: MeshClient, job_id: str, *, disturbed: bool
) -> Sequence[dict[str, Any]]:
    """The lines of its results."""
    stored = await client.files.put(requests(), name="requests.jsonl")
    await client.jobs.submit_batch(stored.file_id, job_id=job_id)
    async with asyncio.timeout(ENDS_WITHIN_S):
        if disturbed:
            await kill_one_after_the_other(mesh, client, job_id)
        ended = await client.jobs.wait(job_id)
    assert ended.state == pb.JOB_STATE_COMPLETED, ended
    assert (ended.batch.completed, ended.batch.failed) == (REQUESTS, 0)
    return await results_of(client, ended.batch.output_file_id)


def content_of(result: dict[str, Any]) -> tuple[str, int]:
    body = result["response"]["body"]
    return body["choices"][0]["message"]["content"], body["usage"]["completion_tokens"]


async def test_a_batch_survives_the_death_of_every_kind_of_process() -> None:
    shape = Shape(replicas=1, generations=2, gateways=2, environment=FAST)
    async with running(shape) as mesh:
        for service in ("jobs", "jobs", "worker", "worker"):
            await mesh.add(service)
        async with MeshClient(mesh.address) as client:
            results = await run_batch(mesh, client, "disturbed", disturbed=True)
            reference = await run_batch(mesh, client, "undisturbed", disturbed=False)
    names = [f"request-{number}" for number in range(REQUESTS)]
    assert [each["custom_id"] for each in results] == names
    assert [content_of(each) for each in results] == [content_of(each) for each in reference]
    assert {content_of(each)[1] for each in results} == {TOKENS}
