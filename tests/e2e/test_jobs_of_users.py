"""Jobs of a mesh with users and TLS: who may start the service, whose usage it is, and quotas."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh_client import MeshClient, PermissionDenied, Unauthenticated
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh
from tests.e2e.test_jobs_command import lines_of_batch

SIMULATED = {"MLXMESH_ENGINE_BACKEND": "simulated"}
REQUESTS = 3
TOKENS = 6
# Longer than the usage of the jobs before takes to be reported, so that a job ends if it may.
SETTLED_S = 5


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    running = start_mesh(tmp_path_factory.mktemp("users"), "--tls", env=SIMULATED)
    password = tmp_path_factory.mktemp("password") / "password"
    password.write_text("correct horse battery")
    ok(running, "users", "create", "ada", "--admin", "--password-file", str(password))
    ok(running, "users", "create", "ci", "--service-account", "--team", "builds")
    yield running
    stop_mesh(running)


def ok(mesh: RunningMesh, *arguments: str) -> str:
    result = mesh.command(*arguments)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


async def in_thread(mesh: RunningMesh, *arguments: str) -> str:
    return await asyncio.to_thread(ok, mesh, *arguments)


def new_key(mesh: RunningMesh, name: str, *arguments: str) -> tuple[str, str]:
    """The secret and the id of a key of ci."""
    created = json.loads(ok(mesh, "keys", "create", name, "--user", "ci", *arguments, "--json"))
    return created["secret"], created["key"]["key_id"]


def client_of(mesh: RunningMesh, secret: str) -> MeshClient:
    return MeshClient(mesh.address, api_key=secret, attempts=1, tls=mesh.tls("client"))


def work(job_id: str, model: str = "pocket") -> pb.SubmitJobRequest:
    request = pb.SubmitJobRequest(job_id=job_id)
    request.generation.model, request.generation.prompt = model, "Hi"
    request.generation.max_tokens, request.generation.ignore_eos = TOKENS, True
    return request


def services(mesh: RunningMesh) -> set[str]:
    return {row["service"] for row in mesh.status()["instances"]}


async def usage_of(mesh: RunningMesh, key_id: str) -> dict[str, Any]:
    """What a key has used of the model."""
    rows = json.loads(await in_thread(mesh, "usage", "--by", "key,model", "--json"))["usage"]
    mine = [row for row in rows if (row["key_id"], row["model"]) == (key_id, "pocket")]
    return mine[0]["amounts"] if mine else {}


async def until_used(mesh: RunningMesh, key_id: str, tokens: int) -> None:
    """Returns once a key has used so many tokens."""
    async with asyncio.timeout(60):
        while int((await usage_of(mesh, key_id)).get("completion_tokens", 0)) < tokens:
            await asyncio.sleep(0.5)


async def test_who_may_not_call_starts_nothing(mesh: RunningMesh) -> None:
    secret, _ = new_key(mesh, "narrow", "--model", "qwen*")
    async with client_of(mesh, "mm_Wrong000_no-such-key") as nobody:
        with pytest.raises(Unauthenticated):
            await nobody.jobs.submit(work("refused"))
    async with client_of(mesh, secret) as narrow:
        with pytest.raises(PermissionDenied):
            await narrow.jobs.submit(work("refused"))
        with pytest.raises(PermissionDenied):
            await narrow.jobs.set_queue("default", pb.QueueSettings())
    assert "jobs" not in services(mesh)


async def test_usage_is_of_the_key_and_counted_once_and_a_quota_holds(mesh: RunningMesh) -> None:
    secret, key_id = new_key(mesh, "nightly")
    async with client_of(mesh, secret) as client:
        await client.jobs.submit(work("one"))
        assert {"jobs", "worker"} <= services(mesh)
        assert (await client.jobs.wait("one")).state == pb.JOB_STATE_COMPLETED
        file = await client.files.put(lines_of_batch(REQUESTS, max_tokens=TOKENS).encode())
        batch = await client.jobs.submit_batch(file.file_id)
        batch = await client.jobs.wait(batch.job_id)
        assert batch.state == pb.JOB_STATE_COMPLETED
    used = batch.batch.completion_tokens + TOKENS
    await until_used(mesh, key_id, used)
    await asyncio.sleep(SETTLED_S)
    assert (await usage_of(mesh, key_id))["completion_tokens"] == str(used)

    await in_thread(mesh, "quotas", "set", f"key:{key_id}", "--tokens-per-day", "1")
    async with client_of(mesh, secret) as client:
        # A quota is counted when the usage of the first job after it was set is reported.
        await client.jobs.submit(work("spends-it"))
        await client.jobs.wait("spends-it")
        await until_used(mesh, key_id, used + TOKENS)
        await asyncio.sleep(SETTLED_S)
        await client.jobs.submit(work("waits"))
        await asyncio.sleep(SETTLED_S)
        assert (await client.jobs.get("waits")).job.state == pb.JOB_STATE_WAITING
