"""Adapters of models over real gRPC and SQL, with files on a real disk."""

import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxmesh.model.v1 import adapter_pb2 as pb
from mlxmesh.model.v1 import adapter_pb2_grpc, ensemble_pb2, model_pb2
from mlxmesh_model import convert
from mlxmesh_model.adapters.additions import Additions
from mlxmesh_model.adapters.servicer import AdapterServicer
from mlxmesh_model.adapters.store import Adapters
from mlxmesh_model.artifacts.folder import inspect
from mlxmesh_model.artifacts.pruning import ADAPTER_UNUSED_AFTER_S, Pruning
from mlxmesh_model.catalogue.models import Model
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.catalogue.upstream import Upstream
from mlxmesh_model.ensembles.convert import from_recipe, recipe_text
from mlxmesh_model.ensembles.store import Ensembles
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.errors import (
    AdapterExists,
    AdapterInvalid,
    AdapterNotFound,
    FeatureNotSupported,
    IllegalState,
    InvalidArgument,
    ModelNotFound,
)
from mlxmesh_shared.lora.adapter_files import read_adapter
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.lora_adapters import random_layers, write_mlx_lm, write_peft
from tests.fakes.model_directory import CONFIG, write_model, write_safetensors

QUERY = "model.layers.0.self_attn.q_proj"
SHAPES = {QUERY: (8, 4), "model.layers.1.self_attn.q_proj": (8, 4)}


@dataclass
class Rig:
    """An AdapterService over its store."""

    stub: adapter_pb2_grpc.AdapterServiceStub
    store: Store
    blobs: BlobStore
    changes: list[tuple[Model | None, Model | None]]
    tmp_path: Path

    async def add(
        self, directory: Path, *, name: str = "french", model: str = "pocket", replace: bool = False
    ) -> pb.Adapter:
        request = pb.AddAdapterRequest(
            model=model, name=name, directory=str(directory), replace=replace
        )
        return (await self.stub.AddAdapter(request)).adapter

    def adapter(self, folder: str = "adapter", seed: int = 0) -> Path:
        return write_mlx_lm(self.tmp_path / folder, random_layers(SHAPES, rank=2, seed=seed))


def base_model(directory: Path, *, bits: int = 0) -> Path:
    """A model with linear modules in its layers, quantized to so many bits."""
    quantization = {"group_size": 4, "bits": bits} if bits else None
    write_model(directory, config=CONFIG | ({"quantization": quantization} if bits else {}))
    weights = {"model.embed_tokens.weight": ("F32", [8, 4], 128)}
    for path, (outputs, inputs) in SHAPES.items():
        if bits:
            words = inputs * bits // 32
            weights[f"{path}.weight"] = ("U32", [outputs, words], outputs * words * 4)
            weights[f"{path}.scales"] = ("F32", [outputs, 1], outputs * 4)
            weights[f"{path}.biases"] = ("F32", [outputs, 1], outputs * 4)
        else:
            weights[f"{path}.weight"] = ("F32", [outputs, inputs], outputs * inputs * 4)
    write_safetensors(directory / "model.safetensors", weights)
    return directory


@pytest.fixture
async def rig(database: DatabaseUrl, tmp_path: Path) -> AsyncGenerator[Rig]:
    changes: list[tuple[Model | None, Model | None]] = []
    store = await Store.open(database, lambda before, after: changes.append((before, after)))
    await store.register("pocket", inspect(base_model(tmp_path / "pocket")))
    await store.register("other", inspect(base_model(tmp_path / "quantized", bits=8)))
    adapters, blobs = Adapters(store), BlobStore(tmp_path / "models")
    server = MeshServer(
        services=[
            (
                adapter_pb2_grpc.add_AdapterServiceServicer_to_server,
                AdapterServicer(adapters, Additions(adapters, blobs)),
            )
        ],
        service_names=["mlxmesh.model.v1.AdapterService"],
        name="model",
    )
    await server.start()
    await server.set_serving()
    async with open_channel(server.address) as channel:
        stub = adapter_pb2_grpc.AdapterServiceStub(channel)
        yield Rig(stub, store, blobs, changes, tmp_path)
    await server.drain(grace_s=0, settle_s=0)
    await store.close()


async def test_an_adapter_is_stored_by_its_content(rig: Rig) -> None:
    source = rig.adapter()
    added = await rig.add(source)
    expected = read_adapter(source)
    assert (added.model, added.name, added.format) == ("pocket", "french", "mlx_lm")
    assert (added.digest, added.rank) == (expected.digest, 2)
    assert added.weights_bytes == expected.weights_bytes
    assert list(added.modules) == ["self_attn.q_proj"]
    assert added.HasField("create_time")
    stored = Path(added.directory)
    assert stored == rig.blobs.models_dir.resolve() / "_adapters" / added.digest
    # What happens to the directory that it came from changes nothing.
    for path in source.iterdir():
        path.unlink()
    assert read_adapter(stored).digest == added.digest
    [(_, model)] = rig.changes[2:]
    assert model is not None
    assert model.adapters["french"].digest == added.digest


async def test_both_formats_fit_plain_and_quantized_modules(rig: Rig) -> None:
    layers = random_layers(SHAPES, rank=2)
    first = await rig.add(write_mlx_lm(rig.tmp_path / "a", layers), model="other")
    second = await rig.add(write_peft(rig.tmp_path / "b", layers), model="other", name="peft")
    assert (first.format, second.format) == ("mlx_lm", "peft")
    # A directory with the files of both is what its configuration says.
    both = write_mlx_lm(rig.tmp_path / "b", layers)
    third = await rig.add(both, name="both")
    assert third.digest == first.digest
    names = {path.name for path in Path(third.directory).iterdir()}
    assert names == {"adapter_config.json", "adapters.safetensors"}


async def test_only_other_content_needs_replace(rig: Rig) -> None:
    first = await rig.add(rig.adapter())
    sequence = await rig.store.sequence()
    assert await rig.add(rig.adapter("copy")) == first
    assert await rig.store.sequence() == sequence
    other = rig.adapter("other", seed=1)
    with pytest.raises(AdapterExists, match="another adapter french"):
        await rig.add(other)
    replaced = await rig.add(other, replace=True)
    assert replaced.digest != first.digest
    assert Path(first.directory).is_dir(), "generations that run need it"
    shown = await rig.stub.GetAdapter(pb.GetAdapterRequest(model="pocket", name="french"))
    assert shown.adapter == replaced


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model.layers.0.self_attn.k_proj": (8, 4)}, "k_proj: the model has no such module"),
        ({QUERY: (8, 6)}, "6 inputs and 8 outputs, but the model's has 4 inputs"),
        ({"model.layers.7.self_attn.q_proj": (8, 4)}, "model.layers.7"),
    ],
)
async def test_what_does_not_fit_the_model_is_named(
    rig: Rig, change: dict[str, tuple[int, int]], why: str
) -> None:
    for model in ("pocket", "other"):
        with pytest.raises(AdapterInvalid, match=why) as caught:
            await rig.add(
                write_mlx_lm(rig.tmp_path / f"bad-{model}", random_layers(change)), model=model
            )
        assert caught.value.field == "directory"
    assert not (rig.blobs.models_dir / "_adapters").exists()
    assert not list(rig.blobs.staging.iterdir())


async def test_directories_without_an_adapter_are_refused(rig: Rig) -> None:
    (rig.tmp_path / "empty").mkdir()
    for path, why in (
        (rig.tmp_path / "none", "is not a directory"),
        (rig.tmp_path / "empty", "adapter_config"),
    ):
        with pytest.raises(AdapterInvalid, match=why):
            await rig.add(path)
    with pytest.raises(InvalidArgument, match="directory must be absolute"):
        await rig.add(Path("adapter"))
    pipe = rig.adapter("pipe")
    (pipe / "adapters.safetensors").unlink()
    os.mkfifo(pipe / "adapters.safetensors")
    with pytest.raises(AdapterInvalid, match="has no adapter"):
        await rig.add(pipe)
    nan = random_layers(SHAPES)
    nan[QUERY][0][0, 0] = float("nan")
    with pytest.raises(AdapterInvalid, match="NaN"):
        await rig.add(write_mlx_lm(rig.tmp_path / "nan", nan))


async def test_names_are_either_aliases_or_adapters(rig: Rig) -> None:
    await rig.store.set_alias("pocket", "stable", 1)
    for name in ("stable", "default"):
        with pytest.raises(AdapterExists, match=f"pocket:{name} is an alias"):
            await rig.add(rig.adapter(), name=name)
    await rig.add(rig.adapter())
    with pytest.raises(AdapterExists, match="has an adapter french") as caught:
        await rig.store.set_alias("pocket", "french", 1)
    assert caught.value.field == "alias"
    await rig.stub.RemoveAdapter(pb.RemoveAdapterRequest(model="pocket", name="french"))
    await rig.store.set_alias("pocket", "french", 1)


async def test_pages_by_model_and_name(rig: Rig) -> None:
    for model, name in (("pocket", "b"), ("pocket", "a"), ("other", "z")):
        await rig.add(rig.adapter(), model=model, name=name)
    found: list[str] = []
    token = ""
    while True:
        page = await rig.stub.ListAdapters(pb.ListAdaptersRequest(page_size=2, page_token=token))
        found += [f"{each.model}:{each.name}" for each in page.adapters]
        token = page.next_page_token
        if not token:
            break
    assert found == ["other:z", "pocket:a", "pocket:b"]
    one = await rig.stub.ListAdapters(pb.ListAdaptersRequest(model="pocket"))
    assert [each.name for each in one.adapters] == ["a", "b"]
    with pytest.raises(ModelNotFound):
        await rig.stub.ListAdapters(pb.ListAdaptersRequest(model="nobody"))
    with pytest.raises(InvalidArgument, match="page_token"):
        await rig.stub.ListAdapters(pb.ListAdaptersRequest(page_token="zz"))


async def test_unknown_ones_are_told_with_those_there_are(rig: Rig) -> None:
    await rig.add(rig.adapter())
    with pytest.raises(AdapterNotFound, match="no adapter german; it has french"):
        await rig.stub.GetAdapter(pb.GetAdapterRequest(model="pocket", name="german"))
    with pytest.raises(AdapterNotFound, match="it has none"):
        await rig.stub.RemoveAdapter(pb.RemoveAdapterRequest(model="other", name="french"))
    for call in (rig.stub.GetAdapter(pb.GetAdapterRequest(model="nobody", name="x")),):
        with pytest.raises(ModelNotFound):
            await call
    with pytest.raises(ModelNotFound):
        await rig.add(rig.adapter(), model="nobody")


async def test_upstreams_and_ensembles_take_none(rig: Rig) -> None:
    await rig.store.register_upstream("far", Upstream("http://127.0.0.1:9/v1", "m"))
    with pytest.raises(FeatureNotSupported, match="upstream"):
        await rig.add(rig.adapter(), model="far")
    await rig.add(rig.adapter())
    recipe = ensemble_pb2.EnsembleRecipe(
        fallback=ensemble_pb2.FallbackRecipe(models=["pocket:french", "pocket"])
    )
    await Ensembles(rig.store).set("crowd", from_recipe(recipe), recipe_text(recipe))
    with pytest.raises(IllegalState, match="is an ensemble"):
        await rig.add(rig.adapter(), model="crowd")
    with pytest.raises(IllegalState, match="ensemble crowd uses pocket:french"):
        await rig.stub.RemoveAdapter(pb.RemoveAdapterRequest(model="pocket", name="french"))


async def test_a_reference_to_an_adapter_is_the_default_version(rig: Rig) -> None:
    await rig.add(rig.adapter())
    model = await rig.store.model("pocket")
    assert model.resolve(ModelReference("pocket", alias="french")).number == 1
    with pytest.raises(ModelNotFound):
        model.resolve(ModelReference("pocket", alias="german"))


async def test_a_removed_model_takes_its_adapters_along(rig: Rig) -> None:
    await rig.add(rig.adapter())
    await rig.store.delete(ModelReference("pocket"))
    await rig.store.register("pocket", inspect(base_model(rig.tmp_path / "again")))
    assert not (await rig.store.model("pocket")).adapters
    page = await rig.stub.ListAdapters(pb.ListAdaptersRequest())
    assert not page.adapters


async def test_removed_files_are_pruned_once_no_generation_can_need_them(rig: Rig) -> None:
    kept = await rig.add(rig.adapter("kept", seed=1), name="kept")
    gone = await rig.add(rig.adapter())
    await rig.stub.RemoveAdapter(pb.RemoveAdapterRequest(model="pocket", name="french"))
    await Pruning(store=rig.store, blobs=rig.blobs).prune()
    assert Path(gone.directory).is_dir()
    at_s = Path(gone.directory).stat().st_mtime + ADAPTER_UNUSED_AFTER_S + 1
    later = Pruning(store=rig.store, blobs=rig.blobs, clock=lambda: at_s)
    assert (await later.find()).freed_bytes >= gone.weights_bytes
    await later.prune()
    assert not Path(gone.directory).exists()
    assert Path(kept.directory).is_dir()


async def test_watchers_see_the_adapters(rig: Rig) -> None:
    added = await rig.add(rig.adapter())
    shown: model_pb2.Model = convert.to_model(await rig.store.model("pocket"))
    assert list(shown.adapters) == [added]
