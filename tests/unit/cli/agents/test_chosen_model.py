"""The model that an agent gets when none is named."""

from __future__ import annotations

import pytest

from mlxmesh.model.v1.model_pb2 import Model, ModelVersion
from mlxmesh_cli.commands.agent_address import chosen_model
from mlxmesh_shared.errors import InvalidArgument


def model(name: str, ready: int = 0) -> Model:
    return Model(name=name, versions=[ModelVersion(version=1, ready_replicas=ready)])


def test_the_only_loaded_model_is_the_default() -> None:
    assert chosen_model(None, [model("a"), model("b", ready=1)]) == "b"
    assert chosen_model(None, [model("a")]) == "a"
    assert chosen_model("b@1", [model("a"), model("b")]) == "b@1"
    for models in ([model("a"), model("b")], []):
        with pytest.raises(InvalidArgument, match="--model"):
            chosen_model(None, models)
    with pytest.raises(InvalidArgument, match="there are a"):
        chosen_model("c", [model("a")])
