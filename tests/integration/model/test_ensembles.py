"""Ensembles in the catalogue, in both databases and over real gRPC."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from mlxmesh.model.v1 import ensemble_pb2 as pb
from mlxmesh.model.v1 import ensemble_pb2_grpc, model_pb2
from mlxmesh_model.catalogue.models import Artifact, Source
from mlxmesh_model.catalogue.routing import Policy
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.convert import to_model
from mlxmesh_model.ensembles.convert import from_recipe, recipe_text
from mlxmesh_model.ensembles.servicer import EnsembleServicer
from mlxmesh_model.ensembles.store import Ensembles
from mlxmesh_shared.errors import IllegalState, InvalidArgument, ModelNotFound, NameInUse
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.sql.urls import DatabaseUrl

ARTIFACT = Artifact("/models/pocket", "d" * 64, "llama", 2**40, 2**41, "4-bit", 4096, 1024)
VOTE = pb.EnsembleRecipe(vote=pb.VoteRecipe(models=["big", "small:stable"], samples=2))


@pytest.fixture
async def store(database: DatabaseUrl) -> AsyncGenerator[Store]:
    store = await Store.open(database)
    for name, digests in (("big", "de"), ("small", "fg")):
        for digest in digests:
            await store.register(name, replace(ARTIFACT, digest=digest * 64))
    await store.set_alias("small", "stable", 1)
    yield store
    await store.close()


@pytest.fixture
def ensembles(store: Store) -> Ensembles:
    return Ensembles(store)


async def put(ensembles: Ensembles, name: str, recipe: pb.EnsembleRecipe = VOTE) -> None:
    await ensembles.set(name, from_recipe(recipe), recipe_text(recipe))


async def test_an_ensemble_is_a_model_without_versions(store: Store, ensembles: Ensembles) -> None:
    before = await store.sequence()
    await put(ensembles, "crowd")
    model = await store.model("crowd")
    assert (model.versions, model.default_version) == ((), 0)
    assert to_model(model).ensemble == VOTE
    assert [each.name for each in await store.models()] == ["big", "crowd", "small"]
    [change] = await store.changes(before)
    assert change.model is not None
    assert change.model.ensemble == model.ensemble
    with pytest.raises(ModelNotFound, match="is an ensemble and has no versions"):
        model.resolve(ModelReference("crowd", 1))


async def test_replacing_and_deleting_are_changes(store: Store, ensembles: Ensembles) -> None:
    await put(ensembles, "crowd")
    first = await store.sequence()
    await put(ensembles, "crowd")
    assert await store.sequence() == first
    other = pb.EnsembleRecipe(fallback=pb.FallbackRecipe(models=["big"]))
    await put(ensembles, "crowd", other)
    assert (await store.changes(first))[0].model is not None
    await ensembles.delete("crowd")
    assert (await store.changes(first))[-1].model is None
    with pytest.raises(ModelNotFound, match="no ensemble crowd"):
        await ensembles.delete("crowd")


async def test_names_are_either_models_or_ensembles(store: Store, ensembles: Ensembles) -> None:
    with pytest.raises(NameInUse, match="big is a model"):
        await put(ensembles, "big")
    await put(ensembles, "crowd")
    with pytest.raises(NameInUse, match="crowd is an ensemble"):
        await store.register("crowd", ARTIFACT)
    with pytest.raises(NameInUse, match="crowd is an ensemble"):
        await store.begin_pull("crowd", Source(repo_id="a/b", revision="main"))
    assert to_model(await store.model("crowd")).ensemble == VOTE


async def test_what_only_models_have_is_refused(store: Store, ensembles: Ensembles) -> None:
    await put(ensembles, "crowd")
    crowd = ModelReference("crowd")
    for call in (
        store.set_alias("crowd", "stable", 1),
        store.set_policy("crowd", Policy(pinned=True)),
        store.set_output_formats("crowd", 0, tools="none", reasoning=None),
        store.set_desired_replicas(crowd, replicas=1),
        store.set_desired_replicas(crowd, replicas=0),
        store.delete(crowd),
    ):
        with pytest.raises(IllegalState, match="crowd is an ensemble"):
            await call


async def test_models_of_a_recipe_cannot_be_deleted(store: Store, ensembles: Ensembles) -> None:
    await put(ensembles, "crowd")
    with pytest.raises(IllegalState, match="ensemble crowd uses big"):
        await store.delete(ModelReference("big"))
    with pytest.raises(IllegalState, match="ensemble crowd uses small:stable"):
        await store.delete(ModelReference("small", 1))
    with pytest.raises(IllegalState, match="ensemble crowd uses small:stable"):
        await store.set_alias("small", "stable", 0)
    await store.set_alias("small", "stable", 2)
    await store.delete(ModelReference("small", 1))
    await store.delete(ModelReference("big", 1))
    with pytest.raises(IllegalState, match="ensemble crowd uses big"):
        await store.delete(ModelReference("big", 2))  # the last one
    await ensembles.delete("crowd")
    await store.delete(ModelReference("big"))


async def test_a_judge_cannot_be_deleted(store: Store, ensembles: Ensembles) -> None:
    best = pb.BestOfRecipe(models=["small"], samples=2, judge="big@1")
    await put(ensembles, "best", pb.EnsembleRecipe(best_of=best))
    with pytest.raises(IllegalState, match="ensemble best uses big@1"):
        await store.delete(ModelReference("big", 1))
    await store.delete(ModelReference("big", 2))


async def test_ensembles_do_not_nest(ensembles: Ensembles) -> None:
    await put(ensembles, "crowd")
    nested = pb.EnsembleRecipe(fallback=pb.FallbackRecipe(models=["big", "crowd"]))
    for name in ("outer", "crowd"):
        with pytest.raises(InvalidArgument, match="is an ensemble") as refused:
            await put(ensembles, name, nested)
        assert refused.value.field == "recipe.fallback.models[1]"


async def test_version_numbers_survive_an_ensemble_of_the_name(
    store: Store, ensembles: Ensembles
) -> None:
    for digest in ("x", "y"):
        await store.register("reused", replace(ARTIFACT, digest=digest * 64))
    await store.delete(ModelReference("reused"))
    await put(ensembles, "reused")
    await ensembles.delete("reused")
    _, number = await store.register("reused", replace(ARTIFACT, digest="z" * 64))
    assert number == 3


async def test_two_services_never_leave_a_recipe_without_its_model(database: DatabaseUrl) -> None:
    stores = [await Store.open(database) for _ in range(2)]
    one, other = stores
    recipe = pb.EnsembleRecipe(fallback=pb.FallbackRecipe(models=["big"]))
    for _ in range(10):
        await one.register("big", ARTIFACT)
        results = await asyncio.gather(
            put(Ensembles(one), "crowd", recipe),
            other.delete(ModelReference("big")),
            return_exceptions=True,
        )
        assert [isinstance(each, IllegalState | InvalidArgument) for each in results].count(
            True
        ) == 1
        names = [model.name for model in await one.models()]
        assert names in (["big", "crowd"], [])
        if names:
            await Ensembles(one).delete("crowd")
            await other.delete(ModelReference("big"))
    for each in stores:
        await each.close()


@pytest.fixture
async def stub(ensembles: Ensembles) -> AsyncGenerator[ensemble_pb2_grpc.EnsembleServiceStub]:
    servicer = EnsembleServicer(ensembles)
    server = MeshServer(
        services=[(ensemble_pb2_grpc.add_EnsembleServiceServicer_to_server, servicer)],
        service_names=["mlxmesh.model.v1.EnsembleService"],
    )
    channel = open_channel(await server.start())
    yield ensemble_pb2_grpc.EnsembleServiceStub(channel)
    await channel.close()
    await server.drain(0, 0)


async def test_the_service_sets_lists_and_deletes(
    stub: ensemble_pb2_grpc.EnsembleServiceStub,
) -> None:
    names = [f"crowd-{number}" for number in range(5)]
    for name in names:
        answer = await stub.SetEnsemble(pb.SetEnsembleRequest(name=name, recipe=VOTE))
        assert answer.ensemble == pb.Ensemble(name=name, recipe=VOTE)
    got = await stub.GetEnsemble(pb.GetEnsembleRequest(name="crowd-3"))
    assert got.ensemble == pb.Ensemble(name="crowd-3", recipe=VOTE)
    listed: list[str] = []
    request = pb.ListEnsemblesRequest(page_size=2)
    while True:
        page = await stub.ListEnsembles(request)
        listed += [each.name for each in page.ensembles]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert listed == names
    await stub.DeleteEnsemble(pb.DeleteEnsembleRequest(name="crowd-3"))
    for call, request in (
        (stub.GetEnsemble, pb.GetEnsembleRequest(name="crowd-3")),
        (stub.GetEnsemble, pb.GetEnsembleRequest(name="big")),
        (stub.DeleteEnsemble, pb.DeleteEnsembleRequest(name="big")),
    ):
        with pytest.raises(ModelNotFound):
            await call(request)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        (pb.EnsembleRecipe(), "recipe.recipe"),
        (pb.EnsembleRecipe(fallback=pb.FallbackRecipe()), "recipe.fallback.models"),
        (pb.EnsembleRecipe(cascade=pb.CascadeRecipe(models=["big"])), "recipe.cascade.models"),
        (
            pb.EnsembleRecipe(
                cascade=pb.CascadeRecipe(models=["small", "big"], min_mean_logprob=float("nan"))
            ),
            "recipe.cascade.min_mean_logprob",
        ),
        (
            pb.EnsembleRecipe(vote=pb.VoteRecipe(models=["big"], samples=17)),
            "recipe.vote.samples",
        ),
        (pb.EnsembleRecipe(vote=pb.VoteRecipe(models=["big"])), "recipe.vote.samples"),
        (pb.EnsembleRecipe(best_of=pb.BestOfRecipe(models=["big"] * 2)), "recipe.best_of.judge"),
        (pb.EnsembleRecipe(vote=pb.VoteRecipe(models=["big", "../x"])), "recipe.vote.models[1]"),
    ],
)
async def test_an_illegal_recipe_names_its_field(
    stub: ensemble_pb2_grpc.EnsembleServiceStub, recipe: pb.EnsembleRecipe, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await stub.SetEnsemble(pb.SetEnsembleRequest(name="crowd", recipe=recipe))
    assert refused.value.field == field


def test_models_have_no_recipe() -> None:
    assert not model_pb2.Model(name="big").HasField("ensemble")
