"""Shadowing in a whole mesh: equal weights answer equally, others are compared."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import IllegalState
from tests.e2e.running_mesh import RunningMesh

MODELS = Path(__file__).parents[2] / "deploy" / "demo-model"
CALLS = 4
CANARY = "xyzzy-shadow-7391"


def ok(mesh: RunningMesh, *arguments: str) -> str:
    result = mesh.command(*arguments)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


@pytest.fixture(scope="module", autouse=True)
def versions(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Version 2 has the weights of version 1 and another setting, version 3 has other weights."""
    copy = tmp_path_factory.mktemp("versions") / "same"
    shutil.copytree(MODELS / "pocket", copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "copied_from": "pocket"}))
    for directory in (copy, MODELS / "pocket-mini"):
        ok(mesh, "register", str(directory), "--name", "pocket")


async def until_heard(client: MeshClient, shadow_id: str) -> None:
    """Calls until one is repeated: generation hears of a shadow a moment after its start."""
    async with asyncio.timeout(120):
        for number in itertools.count():
            asked = f"{shadow_id}-asks-{number}"
            await client.complete("pocket@1", prompt="Hi", max_tokens=1, request_id=asked)
            with suppress(TimeoutError):
                await asyncio.wait_for(until_compared(client, shadow_id, asked), 3)
                return


async def until_compared(client: MeshClient, shadow_id: str, request_id: str) -> None:
    while True:
        report = await client.get_shadow_report(shadow_id)
        if request_id in [pair.request_id for pair in report.pairs]:
            return
        await asyncio.sleep(0.1)


async def answer(mesh: RunningMesh, shadow_id: str, prefix: str) -> list[str]:
    """One call after another, with random seeds, each repeated and compared before the next."""
    texts: list[str] = []
    async with MeshClient(mesh.address) as client, asyncio.timeout(180):
        await until_heard(client, shadow_id)
        for number in range(CALLS):
            response = await client.complete(
                "pocket@1",
                prompt=f"{CANARY}. Once upon a time",
                max_tokens=24,
                temperature=1,
                request_id=f"{prefix}-{number}",
            )
            texts.append(response.text)
            await until_compared(client, shadow_id, f"{prefix}-{number}")
    return texts


def report_of(mesh: RunningMesh, shadow_id: str) -> dict[str, Any]:
    return json.loads(ok(mesh, "shadow", "report", shadow_id, "--json"))


def ids_of(report: dict[str, Any]) -> set[str]:
    """Of what this test asked to be compared."""
    ids = {pair["request_id"] for pair in report["pairs"]}
    return {each for each in ids if not each.startswith(report["shadow"]["shadow_id"])}


def test_versions_are_compared_by_shadows(mesh: RunningMesh) -> None:
    cold = mesh.command("shadow", "start", "pocket", "--to", "2")
    assert cold.returncode == 1
    assert "mlxmesh load pocket@2" in cold.stderr
    for version in (2, 3):
        ok(mesh, "load", f"pocket@{version}")
    same = json.loads(
        ok(mesh, "shadow", "start", "pocket", "--to", "2", "--percent", "100", "--json")
    )
    assert "repeats requests at pocket@2 already" in (
        mesh.command("shadow", "start", "pocket", "--to", "2").stderr
    )
    texts = asyncio.run(answer(mesh, same["shadow_id"], "same"))
    assert len(set(texts)) > 1
    report = report_of(mesh, same["shadow_id"])
    assert int(report["compared"]) == int(report["equal"]) > CALLS
    assert report["mean_edit_distance"] == 0
    assert ids_of(report) == {f"same-{number}" for number in range(CALLS)}
    ok(mesh, "shadow", "stop", same["shadow_id"])

    other = json.loads(
        ok(mesh, "shadow", "start", "pocket", "--to", "3", "--percent", "100", "--json")
    )
    asyncio.run(answer(mesh, other["shadow_id"], "other"))
    report = report_of(mesh, other["shadow_id"])
    assert ids_of(report) == {f"other-{number}" for number in range(CALLS)}
    assert int(report["equal"]) < int(report["compared"])
    assert 0 < report["mean_edit_distance"] <= 1
    # What was stopped gets no more requests.
    assert ids_of(report_of(mesh, same["shadow_id"])) == {f"same-{n}" for n in range(CALLS)}
    listed = json.loads(ok(mesh, "shadow", "list", "pocket", "--json"))["shadows"]
    assert [each["shadow_id"] for each in listed] == [other["shadow_id"], same["shadow_id"]]
    names = [json.loads(line)["name"] for line in ok(mesh, "events", "--json").splitlines() if line]
    assert names.count("shadow.started") == 2
    assert names.count("shadow.stopped") == 1
    # Catalogue, logs and all: nothing of the requests is stored.
    files = [path for path in mesh.data_dir.rglob("*") if path.is_file()]
    assert any(path.name == "model.db" for path in files)
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


async def test_the_client_starts_and_reads_shadows(mesh: RunningMesh) -> None:
    ok(mesh, "load", "pocket@2")
    async with MeshClient(mesh.address) as client:
        started = await client.start_shadow("pocket", to_version=2, from_version=1, percent=50)
        try:
            await client.start_shadow("pocket", to_version=2)
        except IllegalState:
            pass
        else:
            raise AssertionError("a version has one shadow at a time")
        report = await client.get_shadow_report(started.shadow_id, pairs=0)
        assert (report.compared, report.shadow.percent) == (0, 50)
        stopped = await client.stop_shadow(started.shadow_id)
        assert stopped.HasField("end_time")
        assert (await client.list_shadows("pocket"))[0].shadow_id == started.shadow_id
