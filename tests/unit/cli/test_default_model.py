"""Which model a command uses that names none."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mlxmesh.model.v1.model_pb2 import Model, ModelVersion
from mlxmesh_cli.screen.responses import default_model
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import ServiceUnavailable


class Listing:
    """A client whose model service has these models, or is away."""

    def __init__(self, models: list[Model] | None) -> None:
        self._models = models

    async def list_models(self) -> list[Model]:
        if self._models is None:
            raise ServiceUnavailable("no model service is running")
        return self._models


async def chosen(models: list[Model] | None) -> str:
    return await default_model(cast("MeshClient", cast("Any", Listing(models))))


async def test_the_first_ready_model_is_chosen() -> None:
    qwen = Model(name="qwen", versions=[ModelVersion(ready_replicas=1)])
    assert await chosen([Model(name="pocket"), qwen]) == "qwen"
    assert await chosen([]) == "pocket"


async def test_without_the_model_service_the_user_can_name_one() -> None:
    with pytest.raises(ServiceUnavailable, match=r"no model service is running; .* --model"):
        await chosen(None)
