"""`mlxmesh up --tls`: the whole mesh over mTLS, and its certificates renewed while it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from mlxmesh_client import MeshClient, PermissionDenied, ServiceUnavailable
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.tls import CertificateSource
from tests.e2e.running_mesh import RunningMesh, mlxmesh, start_mesh, stop_mesh, wait_until_serving

STORY = [("user", "Tell me a long story about a fox.")]
TOKENS = 1000
DRAIN_TOKENS = 500
STREAMS = 8


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    running = start_mesh(tmp_path_factory.mktemp("tls"), "--tls")
    yield running
    stop_mesh(running)


async def tokens_of(client: MeshClient, max_tokens: int = TOKENS) -> int:
    events = client.generate(
        "pocket", messages=STORY, max_tokens=max_tokens, ignore_eos=True, timeout_s=120
    )
    return sum([len(event.token_ids) async for event in events])


def test_every_process_serves(mesh: RunningMesh) -> None:
    wait_until_serving(mesh)
    assert len(mesh.status()["instances"]) == 5


async def test_a_client_generates_and_does_not_administer(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address, tls=mesh.tls("client")) as client:
        answer = await client.complete("pocket", prompt="Hi", max_tokens=4, timeout_s=30)
        with pytest.raises(PermissionDenied, match="allowed: admin"):
            await client.unload_model("pocket")
    assert answer.token_ids


async def test_nobody_gets_in_in_the_clear(mesh: RunningMesh) -> None:
    addresses = [row["address"] for row in mesh.status()["instances"]]
    assert len(addresses) == 5
    for address in addresses:
        async with MeshClient(address, attempts=1) as client:
            with pytest.raises(ServiceUnavailable):
                await client.list_models(timeout_s=60)


async def test_a_client_gets_nowhere_behind_the_gateway(mesh: RunningMesh) -> None:
    certificates = CertificateSource(mesh.tls("client"))
    (row,) = [row for row in mesh.status()["instances"] if row["service"] == "engine"]
    async with open_channel(row["address"], role="engine", certificates=certificates) as channel:
        with pytest.raises(PermissionDenied):
            await channel.unary_unary("/mlxmesh.engine.v1.EngineService/GetEngineInfo")(b"")


async def test_rotation_drops_no_answer(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address, tls=mesh.tls("client")) as client:
        rotated = asyncio.Event()

        async def keep_asking() -> None:
            while not rotated.is_set():
                assert await tokens_of(client) == TOKENS

        async with asyncio.TaskGroup() as callers:
            for _ in range(STREAMS):
                callers.create_task(keep_asking())
            for _ in range(2):
                await asyncio.sleep(0.3)
                result = await asyncio.to_thread(mesh.command, "certs", "rotate", "--json")
                assert result.returncode == 0, result.stderr
            rotated.set()
        # On connections with the new certificates.
        assert await tokens_of(client) == TOKENS


@pytest.mark.parametrize("service", ["generation", "engine"])
async def test_streams_go_on_while_a_process_is_drained(mesh: RunningMesh, service: str) -> None:
    rows = (await asyncio.to_thread(mesh.status))["instances"]
    [(leaving, pid)] = [(r["instance_id"], r["pid"]) for r in rows if r["service"] == service]
    async with MeshClient(mesh.address, tls=mesh.tls("client"), attempts=1) as client:
        answers = [asyncio.create_task(tokens_of(client, DRAIN_TOKENS)) for _ in range(STREAMS)]
        await asyncio.sleep(0.3)
        drained = await asyncio.to_thread(mesh.command, "drain", leaving, "--json")
        assert drained.returncode == 0, drained.stderr
        assert json.loads(drained.stdout)["gone"]
        assert await asyncio.gather(*answers) == [DRAIN_TOKENS] * STREAMS
    await asyncio.to_thread(wait_until_serving, mesh)
    assert await asyncio.to_thread(mesh.pid, service) != pid


def test_the_command_takes_certificates_by_flags(mesh: RunningMesh) -> None:
    tls_dir = mesh.data_dir / "tls"
    flags = [f"--ca={tls_dir / 'ca.crt'}"]
    flags += [f"--cert={tls_dir / 'client.crt'}", f"--key={tls_dir / 'client.key'}"]
    result = mlxmesh(*flags, "models", "--address", mesh.address, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["models"]


def test_services_tell_the_gateway_what_happens_and_an_admin_sees_it(mesh: RunningMesh) -> None:
    result = mesh.command("events", "--json")
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {"model", "runtime", "gateway"} <= {event["service"] for event in events}
    tls_dir = mesh.data_dir / "tls"
    flags = [f"--ca={tls_dir / 'ca.crt'}"]
    flags += [f"--cert={tls_dir / 'client.crt'}", f"--key={tls_dir / 'client.key'}"]
    top = mlxmesh(*flags, "top", "--address", mesh.address)
    assert top.returncode == 0, top.stderr
    assert "all models" in top.stdout
    assert "no events: the role client may not" in top.stdout


def test_the_log_tells_who_was_refused(mesh: RunningMesh) -> None:
    result = mesh.command("logs", "gateway", "--lines", "1000")
    lines = [line.partition(": ")[2] for line in result.stdout.splitlines()]
    records = [json.loads(line) for line in lines if line.startswith("{")]
    refused = [record["fields"] for record in records if record["component"] == "mlxmesh.audit"]
    assert {(fields["caller"], fields["method"]) for fields in refused} == {
        ("spiffe://mlxmesh/client", "/mlxmesh.model.v1.ModelService/UnloadModel"),
        ("spiffe://mlxmesh/client", "/mlxmesh.telemetry.v1.TelemetryService/WatchEvents"),
    }
    # Who gets no connection is told by gRPC itself.
    assert "Handshake failed" in result.stdout
