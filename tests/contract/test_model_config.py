"""The catalogue and the engine read a model's configuration by the same rules."""

from typing import Any

import pytest

from mlxmesh_engine.forward import model_config
from mlxmesh_model.artifacts import folder as artifacts
from mlxmesh_shared.errors import MeshError
from tests.fakes.model_directory import write_model

SIZE = {"model_type": "llama", "vocab_size": 32}


def by_engine(directory) -> tuple[int, int] | None:
    """Context and vocabulary, None when it would not load."""
    try:
        config = model_config.read_config(directory)
        return model_config.context_tokens(config, 0), model_config.vocab_size(config)
    except (MeshError, ValueError, AttributeError):
        return None


def by_catalogue(directory) -> tuple[int, int] | None:
    try:
        found = artifacts.inspect(directory)
    except MeshError:
        return None
    return found.context_tokens, found.vocab_size


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SIZE, (4096, 32)),
        ({**SIZE, "max_position_embeddings": 256}, (256, 32)),
        ({**SIZE, "max_position_embeddings": None}, (4096, 32)),
        ({**SIZE, "n_positions": 512, "max_seq_len": 512}, (4096, 32)),
        ({"model_type": "v", "text_config": {"vocab_size": 99}}, (4096, 99)),
        ({**SIZE, "text_config": {"vocab_size": 9, "max_position_embeddings": 7}}, (7, 32)),
        ({**SIZE, "text_config": {"max_position_embeddings": None}}, (4096, 32)),
        ({**SIZE, "text_config": []}, (4096, 32)),
        ({**SIZE, "text_config": [1]}, None),
        ({**SIZE, "max_position_embeddings": "many"}, None),
        ({"model_type": "v", "vocab_size": 0, "text_config": {"vocab_size": 9}}, None),
        ({"vocab_size": 32}, None),
        ({**SIZE, "auto_map": {}}, None),
        ({**SIZE, "model_file": "model.py"}, None),
    ],
)
def test_a_configuration(tmp_path, config: dict[str, Any], expected):
    directory = write_model(tmp_path / "m", config=config)
    assert by_catalogue(directory) == expected
    assert by_engine(directory) == expected


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("model.safetensors", True),
        ("model-1-of-1.safetensors", True),
        ("weights.safetensors", False),
    ],
)
def test_names_of_weights(tmp_path, name, served):
    directory = write_model(tmp_path / "m")
    (directory / "model.safetensors").rename(directory / name)
    assert (by_catalogue(directory) is not None) == served
    assert (by_engine(directory) is not None) == served
