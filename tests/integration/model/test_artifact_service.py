"""ArtifactService over gRPC: pages, progress, events, and versions that must not be loaded."""

from collections.abc import Generator
from pathlib import Path

import pytest

from mlxmesh.model.v1 import artifact_pb2 as pb
from mlxmesh.model.v1 import model_pb2
from mlxmesh.telemetry.v1 import events_pb2
from mlxmesh_model.catalogue.models import Phase, Replica
from mlxmesh_shared.errors import IllegalState, InvalidArgument, ModelFilesDamaged, ModelNotFound
from tests.fakes.hub import FakeHub, serving_hub
from tests.fakes.model_directory import write_model

REPO_ID = "mlx/pocket"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path, mesh) -> Generator[FakeHub]:
    with serving_hub() as hub:
        hub.add(REPO_ID, write_model(tmp_path / "at-the-hub"))
        mesh.hub_endpoint = hub.endpoint
        yield hub


@pytest.fixture
async def service(mesh, hub):
    return await mesh.service()


async def pull(service, name: str = "pocket") -> model_pb2.ModelVersion:
    request = model_pb2.PullModelRequest(repo_id=REPO_ID, name=name)
    return [message async for message in service.stub.PullModel(request)][-1].version


async def verify(service, model: str = "") -> list[pb.VerifyArtifactsResponse]:
    request = pb.VerifyArtifactsRequest(model=model)
    return [message async for message in service.artifacts.VerifyArtifacts(request)]


def lose(service, name: str = "pocket") -> None:
    (service.tmp_path / "models" / name / "1" / WEIGHTS).unlink()


async def test_pages_by_model_and_version(service, hub):
    for name in ("b", "a", "c"):
        await pull(service, name)
    await service.register("registered")
    seen: list[str] = []
    request = pb.ListArtifactsRequest(page_size=3)
    while True:
        page = await service.artifacts.ListArtifacts(request)
        seen += [f"{artifact.model}@{artifact.version}" for artifact in page.artifacts]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == ["a@1", "b@1", "c@1", "registered@1"]
    whole = await service.artifacts.ListArtifacts(pb.ListArtifactsRequest())
    stored, *_, registered = whole.artifacts
    assert stored.state == pb.ARTIFACT_STATE_STORED
    assert stored.bytes == stored.shared_bytes > 0
    assert Path(stored.directory).is_dir()
    assert not stored.HasField("verify_time")
    assert (registered.state, registered.shared_bytes) == (pb.ARTIFACT_STATE_EXTERNAL, 0)
    assert stored.bytes <= whole.stored_bytes < 2 * stored.bytes
    assert (whole.prunable_bytes, whole.free_bytes > 0) == (0, True)


@pytest.mark.parametrize("token", ["x", "!", "YWZ0ZXI6YQ==", "YWZ0ZXI6Li4vYQ=="])
async def test_a_page_token_of_somebody_else_is_rejected(service, token: str):
    with pytest.raises(InvalidArgument) as caught:
        await service.artifacts.ListArtifacts(pb.ListArtifactsRequest(page_token=token))
    assert caught.value.field == "page_token"


async def test_progress_ends_with_every_version(service, hub):
    await pull(service)
    await pull(service, "again")
    messages = await verify(service)
    checked = [message.artifact for message in messages if message.HasField("artifact")]
    assert [artifact.model for artifact in checked] == ["again", "pocket"]
    assert all(artifact.HasField("verify_time") for artifact in checked)
    # Shared files are read once.
    assert messages[-1].done_bytes == messages[-1].total_bytes == checked[0].bytes
    assert [m.artifact.model for m in await verify(service, "pocket") if m.HasField("artifact")]
    with pytest.raises(ModelNotFound):
        await verify(service, "nothing")


async def test_a_damaged_version_is_shown_announced_and_not_loaded(mesh, service, hub):
    await mesh.host()
    await pull(service)
    lose(service)
    [*_, last] = await verify(service)
    assert last.artifact.state == pb.ARTIFACT_STATE_DAMAGED
    assert last.artifact.damaged_files == [WEIGHTS]
    [event] = [e for e in mesh.events if isinstance(e, events_pb2.ModelFilesDamaged)]
    assert (event.model, event.version, event.files) == ("pocket", 1, [WEIGHTS])
    assert (await service.version()).failure.reason == "MODEL_FILES_DAMAGED"
    with pytest.raises(ModelFilesDamaged, match="pull mlx/pocket again"):
        await service.load()
    again = await mesh.service()
    with pytest.raises(ModelFilesDamaged):
        await again.load()
    assert not (await pull(again)).HasField("failure")
    assert (await again.load()).state == model_pb2.VERSION_STATE_READY


async def test_a_version_that_was_damaged_while_it_runs_gets_no_more_replicas(mesh, service, hub):
    host = await mesh.host()
    await pull(service)
    await service.load()
    lose(service)
    await verify(service)
    assert (await service.version()).ready_replicas == 1
    with pytest.raises(IllegalState, match="unload it first"):
        await pull(service)
    await host.crash()
    stored = (await service.store.model("pocket")).version(1)
    await service.store.record(stored.with_replicas((Replica("e", "r", Phase.PENDING),), None))
    await mesh.host()
    failed = await service.until("pocket@1", lambda v: v.failure.reason == "MODEL_FILES_DAMAGED")
    assert failed.ready_replicas == 0


async def test_prune_over_grpc(service, hub):
    await pull(service)
    await service.stub.DeleteModel(model_pb2.DeleteModelRequest(model="pocket"))
    stray = service.tmp_path / "models/_store/blobs/ab" / ("ab" + "0" * 62)
    stray.parent.mkdir(parents=True)
    stray.write_bytes(bytes(1000))
    dry = await service.artifacts.PruneArtifacts(pb.PruneArtifactsRequest(dry_run=True))
    assert (dry.files, dry.freed_bytes, stray.exists()) == (1, 1000, True)
    removed = await service.artifacts.PruneArtifacts(pb.PruneArtifactsRequest())
    assert (removed.files, removed.freed_bytes, stray.exists()) == (1, 1000, False)
