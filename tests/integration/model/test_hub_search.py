"""Searching a hub on loopback: what is found, whether it fits, and what happens without a hub."""

import json
from collections.abc import Generator

import pytest

from mlxmesh.model.v1 import hub_pb2 as pb
from mlxmesh.model.v1 import model_pb2
from mlxmesh_shared.errors import HubUnavailable, InvalidArgument, SourceNotFound
from tests.fakes.hub import COMMIT, FakeHub, serving_hub
from tests.fakes.model_directory import CONFIG, write_model
from tests.fakes.runtime import GIB, FakeRuntime

REPO_ID = "mlx-community/Pocket-4bit"


@pytest.fixture
def hub(tmp_path, mesh) -> Generator[FakeHub]:
    with serving_hub() as hub:
        config = {**CONFIG, "quantization": {"group_size": 64, "bits": 4}}
        hub.add(REPO_ID, write_model(tmp_path / "pocket", config=config))
        hub.add("mlx-community/Other-8bit", write_model(tmp_path / "other"))
        hub.add("somebody/Torch", write_model(tmp_path / "torch"))
        hub.told["somebody/Torch"] = {"tags": ["safetensors"], "downloads": 9, "gated": "manual"}
        hub.models["them/Pocket-GGUF"] = {
            "pocket.Q8_0.gguf": bytes(1000),
            "pocket.Q4_K_M.gguf": bytes(600),
            "pocket-00001-of-00002.gguf": bytes(10),
            "README.md": b"",
        }
        hub.told["them/Pocket-GGUF"] = {
            "tags": ["gguf", "license:mit"],
            "gguf": {"architecture": "qwen3", "total": 600_000_000, "context_length": 40_960},
        }
        mesh.hub_endpoint = hub.endpoint
        yield hub


@pytest.fixture
async def service(mesh, hub):
    return await mesh.service()


async def search(service, text: str = "", **fields) -> list[pb.HubModel]:
    return list((await service.hub.SearchHub(pb.SearchHubRequest(text=text, **fields))).models)


async def get(service, repo_id: str, revision: str = "") -> pb.HubModel:
    request = pb.GetHubModelRequest(repo_id=repo_id, revision=revision)
    return (await service.hub.GetHubModel(request)).model


async def test_a_search_finds_models_for_mlx(mesh, service, hub):
    await mesh.host(FakeRuntime(available_bytes=8 * GIB))
    [pocket] = await search(service, "pocket")
    assert (pocket.repo_id, pocket.licence, pocket.gated) == (REPO_ID, "apache-2.0", False)
    assert (pocket.downloads, pocket.likes) == (1200, 34)
    assert pocket.updated.ToJsonString() == "2026-05-04T03:02:01Z"
    assert (pocket.architecture, pocket.quantization) == ("llama", "4-bit")
    assert pocket.size_bytes == 8 * 16
    assert (pocket.fit, pocket.installed_version) == (pb.FIT_NOW, 0)
    assert [list(pocket.files), list(pocket.choices)] == [[], []]


async def test_the_format_chooses_what_is_found(service, hub):
    mlx = {each.repo_id for each in await search(service, format=pb.HUB_FORMAT_MLX)}
    gguf = {each.repo_id for each in await search(service, format=pb.HUB_FORMAT_GGUF)}
    everything = {each.repo_id for each in await search(service, format=pb.HUB_FORMAT_ALL)}
    assert mlx == {REPO_ID, "mlx-community/Other-8bit"}
    assert gguf == {"them/Pocket-GGUF"}
    assert everything == set(hub.models)


async def test_pages_follow_each_other_in_the_order_that_was_asked_for(service, hub):
    for place, repo_id in enumerate(hub.models):
        hub.told.setdefault(repo_id, {})["downloads"] = place * 100
    found: list[str] = []
    request = pb.SearchHubRequest(sort=pb.HUB_SORT_DOWNLOADS, format=pb.HUB_FORMAT_ALL, page_size=3)
    for _ in range(2):
        page = await service.hub.SearchHub(request)
        found += [each.repo_id for each in page.models]
        request.page_token = page.next_page_token
    assert found == list(reversed(hub.models))
    assert not request.page_token


async def test_only_of_an_author(service, hub):
    found = await search(service, author="somebody", format=pb.HUB_FORMAT_ALL)
    assert [(each.repo_id, each.gated) for each in found] == [("somebody/Torch", True)]


async def test_the_same_search_asks_the_hub_once(service, hub):
    assert await search(service, "pocket") == await search(service, "pocket ")
    assert len(hub.api_calls) == 1
    await search(service, "other")
    assert len(hub.api_calls) == 2


async def test_the_token_is_sent(service, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    await search(service, "pocket")
    await get(service, REPO_ID)
    assert hub.authorizations == ["Bearer hf_secret"] * 2


async def test_a_model_with_its_files_and_what_an_engine_needs(mesh, service, hub):
    await mesh.host(FakeRuntime(available_bytes=8 * GIB))
    model = await get(service, REPO_ID)
    assert model.revision == COMMIT
    assert {file.path: file.size_bytes for file in model.files} == {
        name: len(data) for name, data in hub.models[REPO_ID].items()
    }
    [choice] = model.choices
    assert (choice.file, choice.size_bytes) == ("", sum(map(len, hub.models[REPO_ID].values())))
    weights = len(hub.models[REPO_ID]["model.safetensors"])
    assert choice.memory_bytes == weights + 256 * 2**20
    assert (choice.fit, choice.reason, model.fit) == (pb.FIT_NOW, "", pb.FIT_NOW)


async def test_gguf_files_are_choices(service, hub):
    model = await get(service, "them/Pocket-GGUF")
    assert (model.architecture, model.parameters, model.licence) == ("qwen3", 600_000_000, "mit")
    shown = {
        choice.file: (choice.size_bytes, choice.fit, choice.reason) for choice in model.choices
    }
    assert shown == {
        "pocket.Q8_0.gguf": (
            1000,
            pb.FIT_UNSPECIFIED,
            "no runtime runs, so the memory of the hosts is unknown",
        ),
        "pocket.Q4_K_M.gguf": (
            600,
            pb.FIT_REFUSED,
            "Q4_K_M cannot be converted without loss, only F32, F16, BF16, Q8_0, Q4_0, Q4_1",
        ),
    }


async def test_what_does_not_fit_says_the_amounts(mesh, service, hub):
    runtime = FakeRuntime(available_bytes=GIB)
    await mesh.host(runtime)
    for size, fit, reason in (
        (GIB // 2, pb.FIT_NOW, ""),
        (
            GIB + GIB // 2,
            pb.FIT_AFTER_UNLOADING,
            "it needs at least 1.8 GiB; 1.0 GiB are available now, and 2.0 GiB without other"
            " models",
        ),
        (7 * GIB, pb.FIT_NEVER, "it needs at least 7.2 GiB; this host lets engines use 2.0 GiB"),
    ):
        hub.told[REPO_ID] = {"safetensors": {"parameters": {"BF16": size // 2}, "total": size}}
        [pocket] = await search(service, "pocket", page_size=1 + size % 97)
        assert (pocket.fit, pocket.fit_reason) == (fit, reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "whisper"}, "engines cannot load the architecture whisper"),
        ({"auto_map": {}}, "its config.json names code of its own (auto_map), which is never run"),
    ],
)
async def test_what_cannot_be_served_is_refused(service, hub, change, reason):
    hub.models[REPO_ID]["config.json"] = json.dumps({**CONFIG, **change}).encode()
    [found] = await search(service, "pocket")
    model = await get(service, REPO_ID)
    for shown in (found, model):
        assert (shown.fit, shown.fit_reason) == (pb.FIT_REFUSED, reason)


async def test_pickles_are_refused(service, hub):
    hub.models[REPO_ID] = {"pytorch_model.bin": bytes(9), "config.json": b'{"model_type": "llama"}'}
    model = await get(service, REPO_ID)
    assert (model.fit, list(model.choices)) == (pb.FIT_REFUSED, [])
    assert "pickled weights only" in model.fit_reason


async def test_what_is_installed_is_shown(service, hub):
    pull = service.stub.PullModel(model_pb2.PullModelRequest(repo_id=REPO_ID, name="pocket"))
    assert [message async for message in pull]
    [found] = await search(service, "pocket")
    model = await get(service, REPO_ID)
    for shown in (found, model):
        assert (shown.installed_name, shown.installed_version) == ("pocket", 1)
    hub.commit = "c0ffee0000000000000000000000000000000002"
    assert not (await get(service, REPO_ID, hub.commit)).installed_version


@pytest.mark.parametrize(
    ("repo_id", "revision", "message"),
    [("mlx/nowhere", "", "no model mlx/nowhere"), (REPO_ID, "nowhere", "no revision nowhere")],
)
async def test_what_the_hub_lacks(service, hub, repo_id, revision, message):
    with pytest.raises(SourceNotFound, match=message):
        await get(service, repo_id, revision)


async def test_a_foreign_page_token(service, hub):
    hub.api_status = 400
    with pytest.raises(InvalidArgument) as refused:
        await search(service, "pocket", page_token="x")
    assert refused.value.field == "page_token"


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_a_hub_that_fails_is_unavailable_and_not_remembered(service, hub, status):
    hub.api_status = status
    with pytest.raises(HubUnavailable, match=rf"status {status}.*hub_endpoint"):
        await search(service, "pocket")
    hub.api_status = 200
    assert await search(service, "pocket")


async def test_without_a_hub_the_error_says_what_to_do(mesh):
    service = await mesh.service()
    with pytest.raises(HubUnavailable, match="check the network of the model service"):
        await search(service, "pocket")
    with pytest.raises(HubUnavailable, match="register a directory"):
        await get(service, REPO_ID)


async def test_what_is_no_hub(mesh, hub):
    hub.told[REPO_ID] = {"safetensors": 7}
    service = await mesh.service()
    with pytest.raises(HubUnavailable, match="answers not like a hub"):
        await search(service, "pocket")
