"""Registering, reading, aliases, deleting, watching and tokenizers, over real gRPC and real SQL."""

import asyncio
import json
import os
from typing import Any, cast

import pytest

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh_shared.errors import IllegalState, InvalidArgument, ModelNotFound
from tests.fakes.encoder_models import write_encoder
from tests.fakes.model_directory import CONFIG, write_model


async def register(service, directory, name: str = "pocket") -> pb.RegisterModelResponse:
    request = pb.RegisterModelRequest(name=name, directory=str(directory))
    return await service.stub.RegisterModel(request)


async def test_register_returns_the_properties(service, tmp_path):
    directory = write_model(tmp_path / "model")
    answer = await register(service, directory)
    [version] = answer.model.versions
    assert answer.version == answer.model.default_version == version.version == 1
    assert version.state == pb.VERSION_STATE_AVAILABLE
    assert (version.architecture, version.dtype) == ("llama", "float32")
    assert (version.parameters, version.weights_bytes) == (32, 128)
    assert (version.context_tokens, version.vocab_size) == (256, 32)
    assert version.source == str(directory)
    assert len(version.digest) == 64
    assert version.create_time.seconds > 1_700_000_000


async def test_the_same_content_is_the_same_version_in_its_new_directory(service, tmp_path):
    await register(service, write_model(tmp_path / "old"))
    moved = write_model(tmp_path / "new")
    answer = await register(service, moved)
    assert answer.version == 1
    assert [version.source for version in answer.model.versions] == [str(moved)]


async def test_the_same_content_with_another_kind_is_another_version(service, tmp_path):
    directory = str(write_encoder(tmp_path / "model", "qwen3"))
    request = pb.RegisterModelRequest(name="ranks", directory=directory)
    ranking = pb.RegisterModelRequest(name="ranks", directory=directory, kind=pb.MODEL_KIND_RERANK)
    answers = [await service.stub.RegisterModel(each) for each in (request, ranking, ranking)]
    assert [answer.version for answer in answers] == [1, 2, 2]
    kinds = [version.kind for version in answers[-1].model.versions]
    assert kinds == [pb.MODEL_KIND_GENERATION, pb.MODEL_KIND_RERANK]
    assert [v.kind for v in (await service.model("ranks")).versions] == kinds


async def test_version_numbers_are_not_reused(service):
    await service.register(rows=8)
    await service.register(rows=16)
    await service.stub.DeleteModel(pb.DeleteModelRequest(model="pocket@2"))
    assert (await service.register(rows=24)).version == 3


async def test_one_version_by_number_and_by_alias(service):
    await service.register(rows=8)
    await service.register(rows=16)
    await service.stub.SetAlias(pb.SetAliasRequest(name="pocket", alias="stable", version=1))
    for reference in ("pocket@1", "pocket:stable"):
        model = await service.model(reference)
        assert [version.version for version in model.versions] == [1]
        assert model.default_version == 2
    assert len((await service.model("pocket")).versions) == 2


async def test_the_bare_name_refers_to_the_alias_default(service):
    await service.register(rows=8)
    await service.register(rows=16)
    alias = pb.SetAliasRequest(name="pocket", alias="default", version=1)
    answer = await service.stub.SetAlias(alias)
    assert (answer.model.default_version, dict(answer.model.aliases)) == (1, {"default": 1})
    alias.version = 0
    answer = await service.stub.SetAlias(alias)
    assert (answer.model.default_version, dict(answer.model.aliases)) == (2, {})


async def test_the_aliases_of_a_deleted_version_are_deleted(service):
    await service.register(rows=8)
    await service.register(rows=16)
    await service.stub.SetAlias(pb.SetAliasRequest(name="pocket", alias="stable", version=1))
    await service.stub.DeleteModel(pb.DeleteModelRequest(model="pocket:stable"))
    model = await service.model()
    assert ([v.version for v in model.versions], dict(model.aliases)) == ([2], {})


async def test_output_formats_are_set_for_one_version_or_for_all(service):
    await service.register(rows=8)
    await service.register(rows=16)
    request = pb.SetOutputFormatRequest(name="pocket", version=2, tool_format="hermes")
    answer = await service.stub.SetOutputFormat(request)
    assert _formats(answer.model) == [("", ""), ("hermes", "")]
    request = pb.SetOutputFormatRequest(name="pocket", reasoning_format="think")
    answer = await service.stub.SetOutputFormat(request)
    assert _formats(answer.model) == [("", "think"), ("hermes", "think")]
    request = pb.SetOutputFormatRequest(name="pocket", tool_format="", reasoning_format="none")
    answer = await service.stub.SetOutputFormat(request)
    assert _formats(answer.model) == [("", "none"), ("", "none")]
    assert _formats(await service.model()) == _formats(answer.model)


async def test_a_watcher_sees_a_new_output_format_once(service):
    await service.register("a")
    events = await watch(service)
    await until_synced(events)
    for tool_format in ("json", "json", "hermes"):
        request = pb.SetOutputFormatRequest(name="a", tool_format=tool_format)
        await service.stub.SetOutputFormat(request)
    seen = [_formats((await anext(events)).model) for _ in range(2)]
    assert seen == [[("json", "")], [("hermes", "")]]


def _formats(model):
    return [(version.tool_format, version.reasoning_format) for version in model.versions]


async def test_registered_directories_are_not_removed(service, tmp_path):
    directory = write_model(tmp_path / "model")
    await register(service, directory)
    await service.stub.DeleteModel(pb.DeleteModelRequest(model="pocket"))
    assert (directory / "model.safetensors").exists()
    with pytest.raises(ModelNotFound):
        await service.model()


async def test_list_pages_by_name(service):
    for name in ("b", "a", "c"):
        await service.register(name)
    first = await service.stub.ListModels(pb.ListModelsRequest(page_size=2))
    assert [model.name for model in first.models] == ["a", "b"]
    rest = await service.stub.ListModels(
        pb.ListModelsRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [model.name for model in rest.models] == ["c"]
    assert rest.next_page_token == ""


CASES = [
    ("GetModel", pb.GetModelRequest(model="nothing"), ModelNotFound, "model"),
    ("GetModel", pb.GetModelRequest(model="pocket@9"), ModelNotFound, "model"),
    ("GetModel", pb.GetModelRequest(model="pocket:nothing"), ModelNotFound, "model"),
    ("GetModel", pb.GetModelRequest(model="../etc"), InvalidArgument, "model"),
    ("GetModel", pb.GetModelRequest(), InvalidArgument, "model"),
    ("ListModels", pb.ListModelsRequest(page_token="x"), InvalidArgument, "page_token"),
    ("ListModels", pb.ListModelsRequest(page_token="YWJj"), InvalidArgument, "page_token"),
    ("ListModels", pb.ListModelsRequest(page_size=-1), InvalidArgument, "page_size"),
    ("ListModels", pb.ListModelsRequest(page_size=1001), InvalidArgument, "page_size"),
    ("DeleteModel", pb.DeleteModelRequest(model="nothing"), ModelNotFound, "model"),
    ("DeleteModel", pb.DeleteModelRequest(model="pocket@9"), ModelNotFound, "model"),
    ("UnloadModel", pb.UnloadModelRequest(model="nothing"), ModelNotFound, "model"),
    ("UnloadModel", pb.UnloadModelRequest(model="a/b"), InvalidArgument, "model"),
    (
        "SetAlias",
        pb.SetAliasRequest(name="nothing", alias="a", version=1),
        ModelNotFound,
        "name",
    ),
    (
        "SetAlias",
        pb.SetAliasRequest(name="pocket", alias="a", version=9),
        ModelNotFound,
        "version",
    ),
    ("SetAlias", pb.SetAliasRequest(name="pocket", alias="../a"), InvalidArgument, "alias"),
    (
        "SetOutputFormat",
        pb.SetOutputFormatRequest(name="nothing", tool_format="json"),
        ModelNotFound,
        "name",
    ),
    (
        "SetOutputFormat",
        pb.SetOutputFormatRequest(name="pocket", version=9, tool_format="json"),
        ModelNotFound,
        "version",
    ),
    (
        "SetOutputFormat",
        pb.SetOutputFormatRequest(name="pocket", tool_format="nope"),
        InvalidArgument,
        "tool_format",
    ),
    (
        "SetOutputFormat",
        pb.SetOutputFormatRequest(name="pocket", reasoning_format="-"),
        InvalidArgument,
        "reasoning_format",
    ),
    (
        "RegisterModel",
        pb.RegisterModelRequest(name="..", directory="/tmp"),
        InvalidArgument,
        "name",
    ),
    (
        "RegisterModel",
        pb.RegisterModelRequest(name="a", directory="relative"),
        InvalidArgument,
        "directory",
    ),
    (
        "RegisterModel",
        pb.RegisterModelRequest(name="a", directory="/tmp", kind=cast("Any", 99)),
        InvalidArgument,
        "kind",
    ),
    (
        "RegisterModel",
        pb.RegisterModelRequest(name="a", directory="/nowhere"),
        InvalidArgument,
        "directory",
    ),
    (
        "RegisterModel",
        pb.RegisterModelRequest(name="a", directory="/\0"),
        InvalidArgument,
        "directory",
    ),
    (
        "RegisterModel",
        pb.RegisterModelRequest(name="a", directory="/" + "x" * 4000),
        InvalidArgument,
        "directory",
    ),
]
STREAM_CASES = [
    ("LoadModel", pb.LoadModelRequest(model="nothing"), ModelNotFound, "model"),
    ("LoadModel", pb.LoadModelRequest(model="pocket", replicas=0), InvalidArgument, "replicas"),
    ("LoadModel", pb.LoadModelRequest(model="pocket", replicas=65), InvalidArgument, "replicas"),
    ("LoadModel", pb.LoadModelRequest(model="pocket", group_size=0), InvalidArgument, "group_size"),
    (
        "LoadModel",
        pb.LoadModelRequest(model="pocket", group_size=17),
        InvalidArgument,
        "group_size",
    ),
    (
        "LoadModel",
        pb.LoadModelRequest(model="pocket", group_split="rows"),
        InvalidArgument,
        "group_split",
    ),
    ("PullModel", pb.PullModelRequest(repo_id="no-owner"), InvalidArgument, "repo_id"),
    ("PullModel", pb.PullModelRequest(repo_id="a/b", name="../c"), InvalidArgument, "name"),
    ("PullModel", pb.PullModelRequest(repo_id="a/b", revision="../c"), InvalidArgument, "revision"),
    ("GetTokenizer", pb.GetTokenizerRequest(name="nothing", version=1), ModelNotFound, "name"),
    ("GetTokenizer", pb.GetTokenizerRequest(name="pocket", version=9), ModelNotFound, "version"),
    ("GetTokenizer", pb.GetTokenizerRequest(name="pocket"), InvalidArgument, "version"),
]


@pytest.mark.parametrize(("rpc", "request_", "error", "field"), CASES)
async def test_bad_input_names_the_field(service, rpc, request_, error, field):
    await service.register()
    with pytest.raises(error) as caught:
        await getattr(service.stub, rpc)(request_)
    assert caught.value.field == field


@pytest.mark.parametrize(("rpc", "request_", "error", "field"), STREAM_CASES)
async def test_bad_input_of_a_stream_names_the_field(service, rpc, request_, error, field):
    await service.register()
    with pytest.raises(error) as caught:
        await anext(aiter(getattr(service.stub, rpc)(request_)))
    assert caught.value.field == field


async def watch(service, after: int = 0):
    return aiter(service.stub.WatchModels(pb.WatchModelsRequest(after_sequence=after)))


async def until_synced(events) -> list[pb.WatchModelsResponse]:
    found: list[pb.WatchModelsResponse] = []
    async for event in events:
        found.append(event)
        if event.HasField("synced"):
            return found
    raise AssertionError("the watch ended")


async def test_watch_sends_all_then_each_change(service):
    await service.register("a")
    await service.register("b")
    events = await watch(service)
    start = await until_synced(events)
    assert [event.model.name for event in start[:-1]] == ["a", "b"]

    await service.stub.SetAlias(pb.SetAliasRequest(name="a", alias="x", version=1))
    change = await anext(events)
    assert change.model.name == "a"
    assert dict(change.model.aliases) == {"x": 1}
    await service.stub.DeleteModel(pb.DeleteModelRequest(model="b"))
    removal = await anext(events)
    assert removal.removed_name == "b"
    sequences = [event.sequence for event in [*start, change, removal]]
    assert sequences == sorted(sequences)
    assert removal.sequence > change.sequence > start[-1].sequence


async def test_a_watch_resumes_after_a_sequence_number_across_a_restart(mesh, service):
    await service.register("a")
    await service.register("b")
    last = (await until_synced(await watch(service)))[-1].sequence
    await service.stub.DeleteModel(pb.DeleteModelRequest(model="a"))
    await service.register("c")

    service = await mesh.service()
    events = await until_synced(await watch(service, last))

    assert [event.WhichOneof("event") for event in events] == ["removed_name", "model", "synced"]
    assert (events[0].removed_name, events[1].model.name) == ("a", "c")
    assert (await until_synced(await watch(service, events[-1].sequence)))[:-1] == []


async def test_a_watcher_that_is_ahead_gets_everything(service):
    await service.register("a")
    events = await until_synced(await watch(service, 10**9))
    assert events[0].model.name == "a"
    assert events[-1].sequence < 10**9


async def test_nothing_is_sent_when_nothing_changed(service):
    await service.register("a")
    events = await watch(service)
    await until_synced(events)
    await service.register("a")
    await service.stub.UnloadModel(pb.UnloadModelRequest(model="a"))
    await service.register("b")
    assert (await anext(events)).model.name == "b"


async def test_many_watchers_each_see_every_model(service):
    watchers = [await watch(service) for _ in range(20)]
    await asyncio.gather(*map(until_synced, watchers))
    await service.register("a")
    assert {(await anext(events)).model.name for events in watchers} == {"a"}


async def tokenizer(service, version: int = 1) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    request = pb.GetTokenizerRequest(name="pocket", version=version)
    async for chunk in service.stub.GetTokenizer(request):
        assert len(chunk.data) <= 2**20
        files[chunk.file_name] = files.get(chunk.file_name, b"") + chunk.data
    return files


async def test_tokenizer_files_are_complete_and_contain_no_weights(service, tmp_path):
    directory = write_model(tmp_path / "model")
    (directory / "vocab.json").write_bytes(os.urandom(2**20 * 5 // 2))
    (directory / "merges.txt").write_bytes(b"")
    (directory / "model.safetensors.index.json").write_text("{}")
    (directory / "secret.txt").write_text("not yours")
    await register(service, directory)

    files = await tokenizer(service)

    assert sorted(files) == [
        "config.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"
    ]  # fmt: skip
    for name, content in files.items():
        assert content == (directory / name).read_bytes()


async def test_a_directory_that_was_removed(service, tmp_path):
    directory = write_model(tmp_path / "model")
    await register(service, directory)
    directory.rename(tmp_path / "gone")
    with pytest.raises(IllegalState, match="register the model again"):
        await tokenizer(service)


async def test_errors_of_an_invalid_directory_name_what_is_missing(service, tmp_path):
    directory = write_model(tmp_path / "model", config={**CONFIG, "auto_map": {}})
    with pytest.raises(InvalidArgument, match="auto_map"):
        await register(service, directory)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").unlink()
    with pytest.raises(InvalidArgument, match="has no tokenizer"):
        await register(service, directory)
