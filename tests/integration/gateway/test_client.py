"""Every method of the client, through a real gateway."""

from typing import Any

import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_shared.errors import (
    GenerationNotFound,
    InvalidArgument,
    ModelNotFound,
    NoReplica,
    ServiceUnavailable,
)


async def test_models_are_registered_listed_loaded_and_removed(stand: Any) -> None:
    await stand.models()
    client = await stand.client(await stand.gateway())

    for name in ("c", "a", "b", "e", "d"):
        registered = await client.register_model(name=name, directory=f"/models/{name}")
        assert registered.version == 1
    assert [model.name for model in await client.list_models()] == ["a", "b", "c", "d", "e"]

    assert (await client.get_model("a")).versions[0].source == "/models/a"
    loads = [step.version.ready_replicas async for step in client.load_model("a", replicas=2)]
    assert loads == [0, 1, 2]
    aliased = await client.set_alias(name="a", alias="stable", version=1)
    assert dict(aliased.aliases) == {"stable": 1}
    changed = await client.set_output_format(name="a", tool_format="hermes", reasoning_format="")
    assert [version.tool_format for version in changed.versions] == ["hermes"]
    assert (await client.unload_model("a")).version == 1
    await client.delete_model("a")
    with pytest.raises(ModelNotFound):
        await client.get_model("a")


async def test_a_pull_reports_bytes_and_ends_with_the_version(stand: Any) -> None:
    models = await stand.models()
    client = await stand.client(await stand.gateway())

    steps = [step async for step in client.pull_model("org/tiny", revision="v1")]

    assert [(step.name, step.done_bytes) for step in steps] == [("tiny", 1), ("tiny", 2)]
    assert steps[-1].version.version == 1
    assert models.calls[0].revision == "v1"


async def test_an_import_reports_bytes_and_ends_with_the_version(stand: Any) -> None:
    models = await stand.models()
    client = await stand.client(await stand.gateway())

    importing = client.import_model(name="tiny", file="/models/tiny.gguf", dtype="float16")
    steps = [step async for step in importing]

    assert [(step.name, step.done_bytes) for step in steps] == [("tiny", 1), ("tiny", 2)]
    assert steps[-1].version.version == 1
    assert (models.calls[0].file, models.calls[0].dtype) == ("/models/tiny.gguf", "float16")


async def test_a_watch_starts_with_what_there_is(stand: Any) -> None:
    await stand.models()
    client = await stand.client(await stand.gateway())
    await client.register_model(name="a", directory="/models/a")
    watch = client.watch_models(after_sequence=7)

    changes = [await anext(watch), await anext(watch)]
    await watch.aclose()

    assert [change.WhichOneof("event") for change in changes] == ["model", "synced"]
    assert changes[0].sequence == 8


async def test_a_conversation_and_its_options_arrive(stand: Any) -> None:
    generation = await stand.generation()
    client = await stand.client(await stand.gateway())
    messages = [("system", "Be brief."), {"role": "user", "content": "Hi"}]

    async for _ in client.generate("pocket", messages=messages, temperature=0.5, seed=7):
        pass

    (request,) = generation.requests
    assert [turn.role for turn in request.chat.messages] == [g.ROLE_SYSTEM, g.ROLE_USER]
    assert (request.sampling.temperature, request.sampling.seed) == (0.5, 7)


async def test_a_stream_without_its_end_is_an_error(stand: Any) -> None:
    generation = await stand.generation()
    generation.finishes = False
    client = await stand.client(await stand.gateway(resume_wait_s=0.1))

    with pytest.raises(ServiceUnavailable, match="before the generation did"):
        _ = [event async for event in client.generate("pocket", prompt="a")]


async def test_reads_are_tried_again_while_the_mesh_is_unavailable(stand: Any) -> None:
    generation = await stand.generation()
    generation.failures = [NoReplica("starting"), NoReplica("starting")]
    client = await stand.client(await stand.gateway())

    assert (await client.count_tokens("pocket", prompt="a b")).tokens == 2
    assert generation.failures == []


async def test_the_format_of_a_models_output_is_relayed(stand: Any) -> None:
    generation = await stand.generation()
    generation.failures = [NoReplica("starting")]
    client = await stand.client(await stand.gateway())

    told = await client.get_output_format("pocket")

    assert (told.tool_format, told.reasoning_format) == ("hermes", "")
    assert generation.failures == []


async def test_a_client_without_a_mesh_says_so(stand: Any) -> None:
    client = await stand.client("127.0.0.1:1", attempts=1)

    with pytest.raises(ServiceUnavailable):
        await client.list_models()


async def test_errors_name_the_field(stand: Any) -> None:
    await stand.generation()
    client = await stand.client(await stand.gateway())

    with pytest.raises(InvalidArgument) as caught:
        await client.count_tokens("not a model", prompt="x")
    assert caught.value.field == "model"


async def test_what_a_generation_has_come_to(stand: Any) -> None:
    generation = await stand.generation("generation-1")
    other = await stand.generation("generation-2")
    client = await stand.client(await stand.gateway())
    delta = g.Delta(text="a", token_ids=[1])
    for instance in (generation, other):
        with pytest.raises(GenerationNotFound):
            await client.get_generation("mine")
        instance.kept["mine"] = [g.GenerateResponse(sequence=1, delta=delta)]
        found = await client.get_generation("mine")
        assert (found.text, list(found.token_ids)) == ("a", [1])
        instance.kept.clear()
