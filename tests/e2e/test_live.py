"""Live state of a real mesh: every topic, requests, hosts, settings and logs, and the commands."""

from __future__ import annotations

import asyncio
import json

from mlxmesh.telemetry.v1 import live_pb2 as pb
from mlxmesh.telemetry.v1.system_pb2 import GetSystemResponse
from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh

TIMEOUT_S = 120
SERVICES = {"gateway", "generation", "model", "runtime", "engine"}


async def test_every_topic_of_a_mesh_is_told(mesh: RunningMesh) -> None:
    assert mesh.command("jobs", "submit", "Hi", "--max-tokens", "1", "--wait").returncode == 0
    seen: dict[str, pb.WatchResponse] = {}
    synced: set[int] = set()
    wanted = {"mesh", "model", "event", "requests", "jobs", "system"}
    async with asyncio.timeout(TIMEOUT_S), MeshClient(mesh.address) as client:
        await client.complete("pocket", prompt="Once", max_tokens=1)
        topics = ("mesh", "models", "events", "requests", "jobs", "downloads", "system")
        async for news in client.live.watch(topics, interval_ms=200):
            kind = news.WhichOneof("news")
            if kind == "topic":
                assert not news.topic.HasField("failure"), news
                synced.add(news.topic.topic)
            elif kind is not None and (kind != "system" or has_all(news.system)):
                seen[kind] = news
            if len(synced) == len(topics) and seen.keys() >= wanted:
                break
    assert seen["jobs"].jobs.jobs[0].job_id


def has_all(system: GetSystemResponse) -> bool:
    """Whether every process is told; a busy one may answer too late once."""
    told = {one.service for one in system.processes if not one.HasField("failure")}
    return told >= SERVICES and not any(one.HasField("failure") for one in system.processes)


async def test_a_request_is_listed_by_the_command(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address) as client:
        await client.complete("pocket", prompt="Once", max_tokens=4, request_id="listed")
    listed = mesh.command("requests", "list", "--model", "pocket", "--json")
    assert listed.returncode == 0, listed.stderr
    [record] = [
        one for one in json.loads(listed.stdout)["requests"] if one["request_id"] == "listed"
    ]
    assert (record["completion_tokens"], record["model_version"]) == (4, 1)
    shown = mesh.command("requests", "show", "listed")
    assert "pocket@1" in shown.stdout
    assert mesh.command("requests", "show", "unknown").returncode == 1


async def test_the_commands_show_hosts_settings_and_logs(mesh: RunningMesh) -> None:
    shown = mesh.command("system", "show", "--json")
    assert shown.returncode == 0, shown.stderr
    processes = json.loads(shown.stdout)["processes"]
    assert {one["service"] for one in processes} >= SERVICES
    for service in sorted(SERVICES):
        settings = mesh.command("system", "settings", service, "--json")
        assert settings.returncode == 0, settings.stderr
        sources = {one["name"]: one["source"] for one in json.loads(settings.stdout)["settings"]}
        assert sources["data_dir"] == "command line"
    logs = mesh.command("system", "logs", "gateway", "-n", "5")
    assert logs.returncode == 0, logs.stderr
    assert "mlxmesh.access" in logs.stdout
    assert mesh.command("system", "settings", "nobody").returncode == 1
