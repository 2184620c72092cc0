"""Which models a mesh that starts should serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from mlxmesh.model.v1.model_pb2 import (
    LoadModelResponse,
    Model,
    ModelVersion,
    VersionState,
    WatchModelsResponse,
)
from mlxmesh_client import MeshClient
from mlxmesh_launcher import initial_models
from mlxmesh_launcher.options import ModelSource
from mlxmesh_shared.errors import InsufficientMemory

READY, FAILED = VersionState.VERSION_STATE_READY, VersionState.VERSION_STATE_FAILED


class Client:
    """What provisioning needs of a client, over a catalogue in memory."""

    def __init__(self, *models: Model, refuse: str = "") -> None:
        self.models = {model.name: model for model in models}
        self.loaded: dict[str, int] = {}
        self.group_sizes: dict[str, int] = {}
        self.registered: dict[str, str] = {}
        self._refuse = refuse

    async def list_models(self) -> list[Model]:
        return list(self.models.values())

    async def watch_models(self) -> AsyncGenerator[WatchModelsResponse]:
        for model in self.models.values():
            yield WatchModelsResponse(model=model)
        await asyncio.Event().wait()

    async def register_model(self, *, name: str, directory: str) -> None:
        self.registered[name] = directory

    async def load_model(
        self, model: str, *, replicas: int, group_size: int = 1
    ) -> AsyncIterator[LoadModelResponse]:
        self.group_sizes[model] = group_size
        if model == self._refuse:
            raise InsufficientMemory("needs 10 GB, 1 GB is free")
        self.loaded[model] = replicas
        yield LoadModelResponse(name=model)


def known(name: str, source: Path, *, state: VersionState.ValueType = READY) -> Model:
    version = ModelVersion(
        version=1,
        source=str(source),
        desired_replicas=2,
        ready_replicas=2 if state == READY else 0,
        state=state,
    )
    return Model(name=name, versions=[version])


async def provide(client: Client, *named: ModelSource, replicas: int | None = None) -> list[str]:
    lines: list[str] = []
    await initial_models.load_initial_models(
        cast(MeshClient, client), named, replicas, lines.append
    )
    return lines


async def test_a_fresh_mesh_knows_the_bundled_models_and_serves_pocket() -> None:
    client = Client()
    await provide(client)
    assert set(client.registered) >= {"pocket", "pocket-mini"}
    assert client.loaded == {"pocket": 1}


async def test_a_named_model_is_added_and_loaded_as_often_as_asked(tmp_path: Path) -> None:
    client = Client(known("other", tmp_path))
    await provide(client, ModelSource("mine", directory=tmp_path), replicas=3)
    assert client.registered == {"mine": str(tmp_path)}
    assert client.loaded == {"mine": 3}


async def test_a_named_model_is_loaded_with_its_own_options(tmp_path: Path) -> None:
    client = Client(known("other", tmp_path))
    group = ModelSource("wide", directory=tmp_path, load={"group_size": 2})
    await provide(client, group, ModelSource("mine", directory=tmp_path))
    assert client.group_sizes == {"wide": 2, "mine": 1}


async def test_a_named_model_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    client = Client(known("other", tmp_path), refuse="mine")
    with pytest.raises(InsufficientMemory):
        await provide(client, ModelSource("mine", directory=tmp_path))


async def test_what_was_loaded_before_is_left_to_come_back(tmp_path: Path) -> None:
    client = Client(known("other", tmp_path))
    await provide(client)
    assert client.loaded == {}


async def test_replicas_alone_apply_to_what_was_loaded_before(tmp_path: Path) -> None:
    client = Client(known("other", tmp_path))
    await provide(client, replicas=4)
    assert client.loaded == {"other@1": 4}


async def test_a_remembered_model_that_fails_is_reported_and_the_mesh_comes_up(
    tmp_path: Path,
) -> None:
    broken = known("other", tmp_path, state=FAILED)
    broken.versions[0].failure.message = "the directory is gone"
    lines = await provide(Client(broken))
    assert lines[-1] == "other@1 does not serve: the directory is gone"


async def test_a_bundled_model_whose_directory_moved_is_registered_again(tmp_path: Path) -> None:
    client = Client(known("pocket", tmp_path / "old"), known("other", tmp_path / "gone"))
    await provide(client)
    assert set(client.registered) == {"pocket"}


def test_the_client_satisfies_what_provisioning_uses() -> None:
    used: Any = ("list_models", "watch_models", "register_model", "load_model", "pull_model")
    assert all(hasattr(MeshClient, name) for name in used)
