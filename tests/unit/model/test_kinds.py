"""What a model directory serves, by its files."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_model.artifacts import folder
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import Artifact, ModelKind, Source, Version
from mlxmesh_model.replicas.convert import start_request
from mlxmesh_shared.errors import InvalidArgument
from tests.fakes.model_directory import CONFIG, write_model, write_safetensors

BERT = {**CONFIG, "model_type": "bert", "architectures": ["BertModel"]}
CROSS = {**CONFIG, "model_type": "bert", "architectures": ["BertForSequenceClassification"]}
QWEN3 = {**CONFIG, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
NAMES = "sentence_transformers.models."


def write(
    directory: Path,
    config: dict[str, Any],
    modules: list[tuple[str, str, dict[str, Any]]] | None = None,
    **files: Any,
) -> Path:
    """A model with modules of sentence-transformers: type, folder and configuration."""
    write_model(directory, config=config)
    if modules is not None:
        listed = [{"path": path, "type": NAMES + kind} for kind, path, _ in modules]
        (directory / "modules.json").write_text(json.dumps(listed))
        for _, path, content in modules:
            (directory / path).mkdir(exist_ok=True)
            if path and content:
                (directory / path / "config.json").write_text(json.dumps(content))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


TRANSFORMER = ("Transformer", "", {})
MEAN = ("Pooling", "1_Pooling", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
BOTH = ("Pooling", "1_Pooling", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})
DENSE = ("Dense", "2_Dense", {"in_features": 4, "out_features": 3})
NORMALIZE = ("Normalize", "3_Normalize", {})
SCORE = ("LogitScore", "1_LogitScore", {"true_token_id": 1, "false_token_id": 2})


@pytest.mark.parametrize(
    ("config", "modules", "kind", "dimensions"),
    [
        (CONFIG, None, "generation", 0),
        (QWEN3, None, "generation", 0),
        (BERT, None, "embedding", 4),
        ({**BERT, "architectures": ["BertForMaskedLM"]}, None, "embedding", 4),
        ({**BERT, "architectures": None}, None, "embedding", 4),
        (BERT, [TRANSFORMER, MEAN, NORMALIZE], "embedding", 4),
        (BERT, [TRANSFORMER, BOTH], "embedding", 8),
        (BERT, [TRANSFORMER, MEAN, DENSE, NORMALIZE], "embedding", 3),
        (QWEN3, [TRANSFORMER, MEAN, NORMALIZE], "embedding", 4),
        (QWEN3, [TRANSFORMER, SCORE], "rerank", 0),
        (CROSS, None, "rerank", 0),
        ({**CROSS, "id2label": {"0": "LABEL_0"}}, None, "rerank", 0),
        ({**QWEN3, "architectures": ["Qwen3ForSequenceClassification"]}, None, "rerank", 0),
    ],
)
def test_the_files_decide(tmp_path, config, modules, kind, dimensions):
    found = folder.inspect(write(tmp_path / "m", config, modules))
    assert (found.kind, found.dimensions) == (ModelKind(kind), dimensions)


def test_what_the_files_do_not_say_is_given(tmp_path):
    directory = write(tmp_path / "m", QWEN3)
    assert folder.inspect(directory, kind="rerank").kind is ModelKind.RERANK
    assert folder.inspect(directory, kind="embedding").dimensions == 4


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        (BERT, "generation", "is an encoder"),
        (BERT, "vision", "is an encoder"),
        (BERT, "rerank", "no head that scores"),
        (CROSS, "embedding", "serves rerank"),
        (CONFIG, "vision", "no vision_config"),
        ({**CROSS, "id2label": {str(i): "x" for i in range(3)}}, "", "3 classes"),
        ({**CROSS, "num_labels": 5}, "rerank", "5 classes"),
        ({**BERT, "hidden_size": 0}, "", "length of its vectors"),
    ],
)
def test_a_kind_that_the_files_contradict_is_refused(tmp_path, config, kind, words):
    with pytest.raises(InvalidArgument, match=words):
        folder.inspect(write(tmp_path / "m", config), kind=kind)


@pytest.mark.parametrize(
    ("config", "files", "longest"),
    [
        (BERT, {}, 256),
        (BERT, {"sentence_bert_config": {"max_seq_length": 128}}, 128),
        (BERT, {"sentence_bert_config": {"max_seq_length": None}}, 256),
        ({**BERT, "model_type": "xlm-roberta", "pad_token_id": 1}, {}, 254),
        ({**BERT, "model_type": "roberta", "pad_token_id": 0}, {}, 255),
    ],
)
def test_the_longest_input(tmp_path, config, files, longest):
    assert folder.inspect(write(tmp_path / "m", config, **files)).context_tokens == longest


def test_the_files_of_modules_are_part_of_the_digest_but_not_of_the_tokenizer(tmp_path):
    directory = write(tmp_path / "m", BERT, [TRANSFORMER, MEAN, DENSE])
    weights = directory / "2_Dense" / "model.safetensors"
    write_safetensors(weights, {"linear.weight": ("F32", [3, 4], 48)})
    before = folder.inspect(directory)
    assert {"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"} <= set(
        folder.model_files(directory)
    )
    assert not any("/" in name for name in folder.tokenizer_files(directory))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    changed = folder.inspect(directory)
    assert changed.digest != before.digest
    assert changed.weights_bytes == before.weights_bytes == 8 * 16 + 48


def test_other_files_in_folders_are_ignored(tmp_path):
    directory = write(tmp_path / "m", BERT, [TRANSFORMER, MEAN])
    before = folder.inspect(directory)
    (directory / "onnx").mkdir()
    (directory / "onnx" / "config.json").write_text("{}")
    (directory / "1_Pooling" / "code.py").write_text("raise SystemExit")
    assert folder.inspect(directory) == before


@pytest.mark.parametrize("path", ["../x", "/etc", "1_Pooling/..", "onnx", "1_Pooling/inner"])
def test_a_module_outside_the_folders_is_refused(tmp_path, path):
    directory = write(tmp_path / "m", BERT)
    listed = [{"path": path, "type": NAMES + "Pooling"}]
    (directory / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(InvalidArgument, match="names the folder"):
        folder.inspect(directory)


def test_a_folder_that_links_elsewhere_is_refused(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text("{}")
    directory = write(tmp_path / "m", BERT)
    (directory / "1_Pooling").symlink_to(elsewhere)
    with pytest.raises(InvalidArgument, match="not a file inside the directory"):
        folder.inspect(directory)


@pytest.mark.parametrize("content", ["{}", "[1]", "[", '"x"'])
def test_modules_that_are_not_a_list_of_objects(tmp_path, content):
    directory = write(tmp_path / "m", BERT)
    (directory / "modules.json").write_text(content)
    with pytest.raises(InvalidArgument, match=r"modules\.json"):
        folder.inspect(directory)


@pytest.mark.parametrize("kind", list(ModelKind))
def test_an_engine_is_started_for_the_kind(kind):
    artifact = Artifact("/m", "d" * 64, "bert", 1, 1, "float32", 64, 100, kind=kind)
    version = Version("m", 1, State.READY, Source("/m"), datetime.now(UTC), artifact)
    options = start_request("e-1", version).options
    assert options.kind == ("" if kind is ModelKind.GENERATION else kind.value)
    assert options.HasField("kind") == (kind is not ModelKind.GENERATION)
