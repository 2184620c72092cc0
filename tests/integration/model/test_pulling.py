"""Pulling from a hub on loopback: whole, broken off and gone on with, and refused."""

import asyncio
import struct
import time
from collections.abc import Callable, Generator
from typing import Any, cast

import pytest

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh_model.artifacts.huggingface import HuggingFaceHub
from mlxmesh_model.artifacts.pruning import Pruning
from mlxmesh_model.artifacts.pulls import Pulls
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import Source, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.errors import (
    HubUnavailable,
    IllegalState,
    InvalidArgument,
    ServiceUnavailable,
    SourceNotFound,
)
from mlxmesh_shared.sql.urls import SqliteFile
from tests.fakes.closing import Closing
from tests.fakes.encoder_models import HIDDEN, write_encoder
from tests.fakes.hub import FakeHub, serving_hub
from tests.fakes.model_directory import write_model

MIB = 2**20
REPO_ID = "mlx/pocket"


@pytest.fixture
def hub(tmp_path, mesh) -> Generator[FakeHub]:
    with serving_hub() as hub:
        directory = write_model(tmp_path / "at-the-hub", rows=3 * MIB // 16)
        (directory / "README.md").write_text("not for serving")
        (directory / "modeling.py").write_text("raise SystemExit")
        hub.add(REPO_ID, directory)
        mesh.hub_endpoint = hub.endpoint
        yield hub


@pytest.fixture
async def service(mesh, hub):
    return await mesh.service()


async def pull(service, repo_id: str = REPO_ID, **fields: Any) -> list[pb.PullModelResponse]:
    request = pb.PullModelRequest(repo_id=repo_id, **fields)
    return [message async for message in service.stub.PullModel(request)]


def files(service, name: str = "pocket", version: int = 1) -> set[str]:
    return {path.name for path in (service.tmp_path / "models" / name / str(version)).iterdir()}


def parts(service) -> list[str]:
    return [path.name for path in (service.tmp_path / "models/_store/parts").glob("*")]


async def test_pull(service, hub):
    messages = await pull(service)

    assert all(message.name == "pocket" for message in messages)
    done = [message.done_bytes for message in messages]
    assert done == sorted(done)
    last = messages[-1]
    assert last.done_bytes == last.total_bytes > 3 * MIB
    assert (last.version.version, last.version.state) == (1, pb.VERSION_STATE_AVAILABLE)
    assert last.version.source == "mlx/pocket@main"
    assert last.version.parameters == 3 * MIB // 4
    assert files(service) == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"
    }  # fmt: skip


async def test_the_digest_is_that_of_the_same_content_registered(service, hub):
    pulled = (await pull(service))[-1].version
    directory = service.tmp_path / "models/pocket/1"
    answer = await service.stub.RegisterModel(
        pb.RegisterModelRequest(name="again", directory=str(directory))
    )
    assert answer.model.versions[0].digest == pulled.digest


async def test_pulled_again_it_is_the_version_that_it_was(service, hub):
    await pull(service)
    hub.ranges_seen.clear()
    [message] = await pull(service)
    assert message.version.version == 1
    assert hub.ranges_seen == []


async def test_a_new_commit_is_a_new_version(service, hub):
    await pull(service)
    hub.commit = hub.commit[::-1]
    assert (await pull(service))[-1].version.version == 2


MODULES = (
    ("Pooling", {"pooling_mode_mean_tokens": True}),
    ("Dense", {"in_features": HIDDEN, "out_features": 6}),
)


async def test_the_modules_of_an_embedding_model_are_pulled_too(service, hub, tmp_path):
    directory = write_encoder(tmp_path / "embeds", "bert", modules=MODULES)
    (directory / "onnx").mkdir()
    (directory / "onnx" / "config.json").write_text("{}")
    hub.add("owner/embeds", directory)
    version = (await pull(service, "owner/embeds"))[-1].version
    assert (version.kind, version.dimensions) == (pb.MODEL_KIND_EMBEDDING, 6)
    pulled = service.tmp_path / "models/embeds/1"
    modules = {"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"}
    found = {path.relative_to(pulled).as_posix() for path in pulled.rglob("*") if path.is_file()}
    assert found == modules | {
        "config.json", "modules.json", "tokenizer.json", "model.safetensors"
    }  # fmt: skip
    registered = await service.stub.RegisterModel(
        pb.RegisterModelRequest(name="again", directory=str(directory))
    )
    assert registered.model.versions[0].digest == version.digest


async def test_a_kind_that_is_asked_for(service, hub, tmp_path):
    hub.add("owner/ranks", write_encoder(tmp_path / "ranks", "qwen3"))
    plain = (await pull(service, "owner/ranks"))[-1].version
    asked = (await pull(service, "owner/ranks", kind=pb.MODEL_KIND_RERANK))[-1].version
    assert (plain.version, plain.kind) == (1, pb.MODEL_KIND_GENERATION)
    assert (asked.version, asked.kind) == (2, pb.MODEL_KIND_RERANK)
    again = (await pull(service, "owner/ranks", kind=pb.MODEL_KIND_RERANK))[-1].version
    assert again.version == 2


async def test_a_kind_that_does_not_exist(service):
    with pytest.raises(InvalidArgument) as pulled:
        await pull(service, kind=99)
    importing = pb.ImportModelRequest(name="a", file="/m.gguf", kind=cast("Any", 99))
    with pytest.raises(InvalidArgument) as imported:
        _ = [message async for message in service.stub.ImportModel(importing)]
    assert pulled.value.field == imported.value.field == "kind"


async def test_under_another_name_and_revision(service, hub):
    last = (await pull(service, name="mine", revision=hub.commit))[-1]
    assert (last.name, last.version.source) == ("mine", f"mlx/pocket@{hub.commit}")


async def test_a_connection_that_breaks_once_is_not_noticed(service, hub):
    hub.break_after_bytes, hub.breaks_left = MIB, 1
    assert (await pull(service))[-1].version.state == pb.VERSION_STATE_AVAILABLE
    assert any(seen.startswith("model.safetensors bytes=") for seen in hub.ranges_seen)


async def test_the_next_pull_continues_a_broken_download(service, hub):
    hub.break_after_bytes, hub.breaks_left = MIB, 2
    with pytest.raises(HubUnavailable, match="pull again"):
        await pull(service)
    version = await service.version()
    assert version.state == pb.VERSION_STATE_FAILED
    assert version.failure.reason == "HUB_UNAVAILABLE"
    hub.ranges_seen.clear()

    messages = await pull(service)

    assert messages[0].done_bytes >= MIB
    assert [seen.split("=")[0] for seen in hub.ranges_seen] == ["model.safetensors bytes"]
    assert messages[-1].version.version == 1
    assert not messages[-1].version.HasField("failure")


async def test_continuing_at_another_commit_mixes_no_files(service, hub):
    hub.models[REPO_ID]["extra.json"] = b"{}"
    hub.break_after_bytes, hub.breaks_left = MIB, 2
    with pytest.raises(HubUnavailable):
        await pull(service)
    hub.commit = hub.commit[::-1]
    hub.models[REPO_ID]["config.json"] += b" "
    hub.models[REPO_ID]["model.safetensors"] = hub.models[REPO_ID]["model.safetensors"][:-1] + b"!"
    del hub.models[REPO_ID]["extra.json"]

    await pull(service)

    directory = service.tmp_path / "models/pocket/1"
    kept = {path.name: path.read_bytes() for path in directory.iterdir()}
    wanted = {name: data for name, data in hub.models[REPO_ID].items() if name in kept}
    assert kept == wanted
    assert {"config.json", "model.safetensors"} <= kept.keys()


class _SlowStore(Store):
    """A catalogue whose `begin_pull` returns some time after it is done."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def begin_pull(
        self, name: str, source: Source, claim: Callable[[Version], None] = lambda _: None
    ) -> Version:
        version = await super().begin_pull(name, source, claim)
        self.begun.set()
        await self.go_on.wait()
        return version


async def test_a_pull_cancelled_at_its_start_is_not_left_pulling(closing, tmp_path, hub):
    store = closing(await _SlowStore.open(SqliteFile(tmp_path / "slow.db")))
    assert isinstance(store, _SlowStore)
    blobs = BlobStore(tmp_path / "models")
    pruning = Pruning(store=store, blobs=blobs)
    pulls = Pulls(store=store, hub=HuggingFaceHub(hub.endpoint), blobs=blobs, pruning=pruning)

    async def run() -> None:
        async for _ in pulls.pull(REPO_ID, "main", "pocket"):
            pass

    pulling = asyncio.create_task(run())
    await store.begun.wait()
    pulling.cancel()
    asyncio.get_running_loop().call_later(0.05, store.go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await pulling
    [version] = (await store.model("pocket")).versions
    assert version.state is State.PULL_FAILED


@pytest.mark.parametrize("same_files", [True, False])
async def test_a_pull_that_another_service_began_goes_on(
    closing: Closing, tmp_path, hub, same_files: bool
):
    """Whoever takes over sees it PULLING at the first moment."""
    store = closing(await _SlowStore.open(SqliteFile(tmp_path / "slow.db")))
    assert isinstance(store, _SlowStore)

    def service(folder: str) -> Pulls:
        blobs = BlobStore(tmp_path / folder)
        pruning = Pruning(store=store, blobs=blobs)
        endpoint = HuggingFaceHub(hub.endpoint)
        return Pulls(store=store, hub=endpoint, blobs=blobs, pruning=pruning)

    steps = service("models").pull(REPO_ID, "main", "pocket")
    pulling = asyncio.create_task(anext(steps))
    await store.begun.wait()
    await service("models" if same_files else "others").recover(alone=False)
    [version] = (await store.model("pocket")).versions
    assert version.state is State.PULLING
    store.go_on.set()
    await pulling
    *_, last = [step async for step in steps]
    assert last.version is not None
    assert last.version.state is State.AVAILABLE


async def test_a_pull_whose_host_is_gone_is_marked_by_a_service_that_is_alone(
    closing, tmp_path, hub
):
    store = closing(await Store.open(SqliteFile(tmp_path / "model.db")))
    blobs = BlobStore(tmp_path / "others")
    pulls = Pulls(
        store=store,
        hub=HuggingFaceHub(hub.endpoint),
        blobs=blobs,
        pruning=Pruning(store=store, blobs=blobs),
    )
    await store.begin_pull("pocket", Source(repo_id=REPO_ID, revision="main"))
    for alone, state in ((False, State.PULLING), (True, State.PULL_FAILED)):
        await pulls.recover(alone=alone)
        [version] = (await store.model("pocket")).versions
        assert version.state is state


async def test_a_hub_without_ranges_starts_over(service, hub):
    hub.ranges = False
    hub.break_after_bytes, hub.breaks_left = MIB, 1
    last = (await pull(service))[-1]
    assert last.done_bytes == last.total_bytes


async def test_a_cancelled_pull_keeps_its_bytes(service, hub):
    hub.gate.clear()
    call = service.stub.PullModel(pb.PullModelRequest(repo_id=REPO_ID))
    async for message in call:
        if message.done_bytes >= MIB:
            call.cancel()
            break
    failed = await service.until("pocket@1", lambda v: v.state == pb.VERSION_STATE_FAILED)
    assert failed.failure.reason == "CANCELLED"
    assert len(parts(service)) == 1

    hub.gate.set()
    messages = await pull(service)
    assert messages[0].done_bytes >= MIB
    assert parts(service) == []


async def test_a_pull_interrupted_by_the_service_can_be_continued(mesh, service, hub):
    hub.gate.clear()
    call = service.stub.PullModel(pb.PullModelRequest(repo_id=REPO_ID))
    await anext(aiter(call))
    service = await mesh.service()
    assert (await service.version()).state == pb.VERSION_STATE_FAILED
    hub.gate.set()
    assert (await pull(service))[-1].version.version == 1


async def test_two_pulls_of_the_same_at_once(service, hub):
    hub.gate.clear()
    first = asyncio.create_task(pull(service))
    while not parts(service):
        await asyncio.sleep(0.01)
    with pytest.raises(IllegalState, match="pocket@1: it is PULLING; another call is pulling it"):
        await pull(service)
    with pytest.raises(IllegalState, match="cannot delete pocket@1: it is PULLING"):
        await service.stub.DeleteModel(pb.DeleteModelRequest(model="pocket"))
    with pytest.raises(IllegalState, match="cannot load pocket@1: it is PULLING"):
        await service.load()
    hub.gate.set()
    await first


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
async def test_wrong_content_is_removed(service, hub, name):
    hub.corrupt.add(name)
    with pytest.raises(HubUnavailable, match=f"{name} did not match its checksum"):
        await pull(service)
    assert parts(service) == []
    assert not (service.tmp_path / "models/pocket/1").exists()

    hub.corrupt.clear()
    assert (await pull(service))[-1].version.state == pb.VERSION_STATE_AVAILABLE


async def test_pickled_weights_are_rejected(service, hub):
    hub.models[REPO_ID] = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    with pytest.raises(InvalidArgument, match="pickled weights only") as caught:
        await pull(service)
    assert caught.value.field == "repo_id"
    assert (await service.stub.ListModels(pb.ListModelsRequest())).models == []


async def test_a_model_with_its_own_code_is_rejected(service, hub):
    hub.models[REPO_ID]["config.json"] = b'{"model_type": "x", "auto_map": {"a": "b"}}'
    with pytest.raises(InvalidArgument, match="auto_map"):
        await pull(service)
    assert (await service.version()).failure.reason == "INVALID_FIELD"


async def test_a_text_file_that_is_too_large_is_rejected_before_the_download(service, hub):
    hub.models[REPO_ID]["config.json"] = b" " * (4 * MIB) + b"{}"
    with pytest.raises(InvalidArgument, match=r"config.json is larger than 4 MiB") as caught:
        await pull(service)
    assert caught.value.field == "repo_id"
    assert (await service.stub.ListModels(pb.ListModelsRequest())).models == []


async def test_a_hostile_header_at_the_hub_does_not_block_the_service(service, hub):
    shape = b",".join([b"9" * 4000] * 3000)
    header = b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}' % shape
    hub.models[REPO_ID]["model.safetensors"] = struct.pack("<Q", len(header)) + header + bytes(4)
    with pytest.raises(InvalidArgument, match="header cannot be read"):
        await pull(service)


async def test_names_with_directories_are_ignored(service, hub):
    hub.models[REPO_ID]["../../outside.json"] = b"{}"
    hub.models[REPO_ID]["deeper/inside.json"] = b"{}"
    await pull(service)
    assert len(files(service)) == 4
    assert not (service.tmp_path / "models/outside.json").exists()


async def test_unknown_model_and_revision(service, hub):
    with pytest.raises(SourceNotFound, match="no model mlx/nothing"):
        await pull(service, "mlx/nothing")
    with pytest.raises(SourceNotFound, match="no revision v9"):
        await pull(service, revision="v9")


async def test_no_hub(mesh, hub):
    mesh.hub_endpoint = "http://127.0.0.1:9"
    service = await mesh.service()
    with pytest.raises(HubUnavailable, match=r"127\.0\.0\.1:9"):
        await pull(service)


async def test_progress_is_rate_limited(service, hub):
    hub.models[REPO_ID] |= {f"extra-{n}.json": b"{}" for n in range(50)}
    began_s = time.monotonic()
    messages = await pull(service)
    # Ten a second at most, beside the first and the last.
    assert len(messages) <= 2 + (time.monotonic() - began_s) * 10
    assert messages[-1].done_bytes == messages[-1].total_bytes


async def test_deleting_removes_what_was_pulled(service, hub):
    await pull(service)
    await service.stub.DeleteModel(pb.DeleteModelRequest(model="pocket@1"))
    assert not (service.tmp_path / "models/pocket/1").exists()


async def test_a_link_in_the_models_directory_is_not_followed(service, hub):
    elsewhere = service.tmp_path / "elsewhere"
    elsewhere.mkdir()
    (service.tmp_path / "models").mkdir()
    (service.tmp_path / "models/pocket").symlink_to(elsewhere)
    with pytest.raises(InvalidArgument, match="is a link"):
        await pull(service)
    assert list(elsewhere.iterdir()) == []


async def test_a_write_error_is_reported(service, hub):
    (service.tmp_path / "models").mkdir()
    (service.tmp_path / "models/pocket").write_text("a file where a directory has to be")
    with pytest.raises(ServiceUnavailable, match="cannot be written"):
        await pull(service)
    assert (await service.version()).failure.reason == "SERVICE_UNAVAILABLE"
