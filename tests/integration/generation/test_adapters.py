"""LoRA adapters: which one a request has, that it keeps it, and where it is sent."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.generation.v1.generation_pb2 import (
    CountTokensRequest,
    GenerateRequest,
    ReceivedOutput,
    ResumeGenerationRequest,
    Started,
)
from mlxmesh.model.v1.adapter_pb2 import Adapter
from mlxmesh.model.v1.ensemble_pb2 import EnsembleRecipe, FallbackRecipe
from mlxmesh.model.v1.model_pb2 import Model
from mlxmesh_shared.errors import (
    AdapterNotFound,
    FeatureNotSupported,
    GenerationExists,
    InvalidArgument,
    ModelNotFound,
)
from tests.fakes.engine import FakeEngine
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh, pocket, running_mesh


def model(*names: str, generation: int = 1) -> Model:
    """pocket with adapters, whose digests differ by name and generation."""
    shown = pocket()
    for name in names:
        digest = f"{generation}{name.encode().hex()}".ljust(64, "0")
        shown.adapters.append(
            Adapter(model="pocket", name=name, digest=digest, directory=f"/adapters/{digest}")
        )
    return shown


@pytest.fixture
async def mesh(tmp_path: Path, tokenizer_dir: Path) -> AsyncIterator[Mesh]:
    async with running_mesh(tmp_path, tokenizer_dir, model=model("french", "german")) as mesh:
        yield mesh


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"model": "pocket", "prompt": "x", "max_tokens": 3, **fields})


def submitted(engine: FakeEngine) -> list[str]:
    return [submit.adapter.digest for submit in engine.submits]


@pytest.mark.parametrize(
    "fields",
    [
        {"adapter": "french"},
        {"model": "pocket:french"},
        {"model": "pocket:french", "adapter": "french"},
        {"model": "pocket@1", "adapter": "french"},
        {"model": "pocket:stable", "adapter": "french"},
    ],
)
async def test_a_name_is_sent_as_digest_and_directory(mesh: Mesh, fields: dict[str, str]) -> None:
    expected = model("french").adapters[0]
    first, *_ = await mesh.collect(request(n=2, **fields))
    assert len(mesh.engine.submits) == 2
    for submit in mesh.engine.submits:
        assert (submit.adapter.digest, submit.adapter.directory) == (
            expected.digest,
            expected.directory,
        )
    shown = first.started.adapter
    assert (shown.name, shown.digest, shown.directory) == (
        "french",
        expected.digest,
        expected.directory,
    )


async def test_without_a_name_there_is_none(mesh: Mesh) -> None:
    first, *_ = await mesh.collect(request())
    assert not first.started.HasField("adapter")
    assert not mesh.engine.submits[0].HasField("adapter")


async def test_an_alias_wins(mesh: Mesh) -> None:
    # The catalogue keeps them apart; an older one may not have.
    shown = model("french", "stable")
    mesh.models.put(shown)
    await until_known(mesh, shown)
    await mesh.collect(request(model="pocket:stable"))
    assert not mesh.engine.submits[-1].HasField("adapter")


async def until_known(mesh: Mesh, shown: Model) -> None:
    """Until generation knows the first adapter of the model as it is now."""
    wanted, first = shown.adapters[0], ""
    while first != wanted.digest:
        answer, *_ = await mesh.collect(request(adapter=wanted.name))
        first = answer.started.adapter.digest


@pytest.mark.parametrize(
    ("fields", "error", "message", "field"),
    [
        ({"adapter": "none"}, AdapterNotFound, "no adapter none; it has french, german", "adapter"),
        ({"model": "pocket:none"}, ModelNotFound, "are: french, german, stable", "model"),
        (
            {"model": "pocket:french", "adapter": "german"},
            InvalidArgument,
            "names another adapter",
            "adapter",
        ),
        ({"adapter": "a/b"}, InvalidArgument, "adapter", "adapter"),
        ({"adapter": "x" * 65}, InvalidArgument, "adapter", "adapter"),
    ],
)
async def test_what_is_refused_by_name(
    mesh: Mesh, fields: dict[str, str], error: type[Exception], message: str, field: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        await mesh.collect(request(**fields))
    assert caught.value.field == field  # pyright: ignore[reportAttributeAccessIssue]
    assert mesh.engine.submits == []


async def test_it_is_part_of_what_makes_requests_equal(mesh: Mesh) -> None:
    await mesh.collect(request(request_id="mine", adapter="french"))
    with pytest.raises(GenerationExists):
        await mesh.collect(request(request_id="mine", adapter="german"))


async def test_it_is_kept_when_its_name_means_another_one(mesh: Mesh) -> None:
    old, new = model("french"), model("french", generation=2)
    seen = 0
    async for response in mesh.stub.Generate(request(adapter="french", max_tokens=200)):
        seen += len(response.delta.token_ids)
        if seen > 5 and len(mesh.engine.submits) == 1:
            mesh.models.put(new)
            await until_known(mesh, new)
            mesh.engine.break_streams()
    of_stream = [each for each in mesh.engine.submits if each.max_tokens == 200]
    assert len(of_stream) == 2
    assert {each.adapter.digest for each in of_stream} == {old.adapters[0].digest}
    assert seen == 200


@pytest.mark.parametrize("names", [("french",), ()])
async def test_another_instance_resumes_with_the_adapter_of_started(
    mesh: Mesh, names: tuple[str, ...]
) -> None:
    """Its name may stand for another one here, or for none."""
    mesh.models.put(model(*names, generation=2))
    started = Started(request_id="mine", model="pocket", model_version=1)
    started.adapter.name = "french"
    started.adapter.digest = "a" * 64
    started.adapter.directory = "/adapters/a"
    resume = ResumeGenerationRequest(
        generation=request(model="pocket@1", adapter="french", request_id="mine", max_tokens=9),
        outputs=[ReceivedOutput(token_ids=[5, 6])],
        after_sequence=3,
        started=started,
    )
    rest = [answer.message async for answer in mesh.stub.ResumeGeneration(resume)]
    assert rest[-1].finished.usage.completion_tokens == 9
    assert submitted(mesh.engine) == ["a" * 64]


async def test_an_engine_that_holds_the_adapter_is_preferred(mesh: Mesh) -> None:
    async with FakeEngine(replace(mesh.engine.options, engine_id="engine-2")).running() as other:
        other.adapters.add(model("german").adapters[0].digest)
        await mesh.registry.register(other.instance)
        await until(lambda: other.streams > 0)
        await mesh.collect(request(adapter="french"))
        await mesh.collect(request(adapter="french", prompt="y"))
        taken = submitted(mesh.engine) + submitted(other)
        assert len(set(taken)) == 1
        assert [] in (submitted(mesh.engine), submitted(other)), "the second one went elsewhere"
        mesh.engine.submits.clear()
        other.submits.clear()
        while not other.submits:  # its load is reported soon
            mesh.engine.submits.clear()
            await mesh.collect(request(adapter="german", prompt="z"))
        other.submits.clear()
        mesh.engine.submits.clear()
        for prompt in "abc":
            await mesh.collect(request(adapter="german", prompt=prompt))
        assert len(other.submits) == 3


async def test_tokens_are_counted_for_an_adapter(mesh: Mesh) -> None:
    counted = [
        (await mesh.stub.CountTokens(CountTokensRequest(model=name, prompt="abc"))).tokens
        for name in ("pocket", "pocket:french")
    ]
    assert counted[0] == counted[1] > 0


async def test_a_recipe_names_adapters_and_an_ensemble_takes_none(mesh: Mesh) -> None:
    recipe = EnsembleRecipe(fallback=FallbackRecipe(models=["pocket:french", "pocket"]))
    mesh.models.put(Model(name="crowd", ensemble=recipe))
    first = None
    while first is None:
        try:
            first, *_ = await mesh.collect(request(model="crowd"))
        except ModelNotFound:
            continue
    assert first.started.adapter.name == "french"
    assert submitted(mesh.engine) == [model("french").adapters[0].digest]
    with pytest.raises(FeatureNotSupported, match="name model:adapter in its recipe"):
        await mesh.collect(request(model="crowd", adapter="french"))
