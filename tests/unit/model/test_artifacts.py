"""Validation and properties of model directories."""

import json
import os

import pytest

from mlxmesh_model.artifacts import folder as artifacts
from mlxmesh_shared.artifacts.digests import sha256
from mlxmesh_shared.errors import IllegalState, InvalidArgument
from tests.fakes.model_directory import CONFIG, write_model, write_safetensors


def test_properties(tmp_path):
    found = artifacts.inspect(write_model(tmp_path / "m"))
    assert (found.architecture, found.dtype, found.parameters) == ("llama", "float32", 32)
    assert (found.weights_bytes, found.context_tokens, found.vocab_size) == (128, 256, 32)
    assert found.directory == str(tmp_path / "m")


def test_the_digest_depends_on_the_content_not_on_the_path(tmp_path):
    here = artifacts.inspect(write_model(tmp_path / "here"))
    there = artifacts.inspect(write_model(tmp_path / "there"))
    other = artifacts.inspect(write_model(tmp_path / "other", rows=9))
    assert here.digest == there.digest != other.digest


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_each_file_changes_the_digest(tmp_path, name):
    directory = write_model(tmp_path / "m")
    before = artifacts.inspect(directory).digest
    path = directory / name
    if name.endswith(".json"):
        path.write_text(path.read_text() + " ")
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert artifacts.inspect(directory).digest != before


def test_other_files_do_not_change_the_digest(tmp_path):
    directory = write_model(tmp_path / "m")
    before = artifacts.inspect(directory).digest
    (directory / "README.md").write_text("hello")
    (directory / ".cache").mkdir()
    assert artifacts.inspect(directory).digest == before


def test_a_file_with_a_known_checksum_is_not_read(tmp_path):
    directory = write_model(tmp_path / "m")
    sha = sha256(directory / "model.safetensors")
    known = {"model.safetensors": sha}
    assert (
        artifacts.inspect(directory, known_sha256=known).digest
        == artifacts.inspect(directory).digest
    )
    known["model.safetensors"] = "0" * 64
    assert (
        artifacts.inspect(directory, known_sha256=known).digest
        != artifacts.inspect(directory).digest
    )


def test_quantized(tmp_path):
    quantization = {"group_size": 64, "bits": 4, "lm_head": {"group_size": 64, "bits": 8}}
    directory = write_model(tmp_path / "m", config={**CONFIG, "quantization": quantization})
    write_safetensors(
        directory / "model.safetensors",
        {
            "layer.weight": ("U32", [16, 8], 512),  # 16 x 64 of 4 bits
            "layer.scales": ("BF16", [16, 1], 32),
            "layer.biases": ("BF16", [16, 1], 32),
            "lm_head.weight": ("U32", [4, 16], 256),  # 4 x 64 of 8 bits
            "lm_head.scales": ("BF16", [4, 1], 8),
            "norm.weight": ("BF16", [64], 128),
        },
    )
    found = artifacts.inspect(directory)
    assert (found.dtype, found.parameters) == ("4-bit", 16 * 64 + 4 * 64 + 64)


def test_weights_that_engines_ignore_do_not_count(tmp_path):
    directory = write_model(tmp_path / "m")
    before = artifacts.inspect(directory)
    write_safetensors(directory / "consolidated.safetensors", {"w": ("F32", [8], 32)})
    assert artifacts.inspect(directory) == before


def lose(name):
    return lambda directory: (directory / name).unlink()


def put(name, content):
    return lambda directory: (directory / name).write_text(content)


def pickled(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def renamed(directory):
    (directory / "model.safetensors").rename(directory / "weights.safetensors")


def link_outside(directory):
    outside = directory.parent / "outside.json"
    outside.write_text("{}")
    (directory / "extra.json").symlink_to(outside)


def cut_short(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose("config.json"), "no config.json"),
        (lose("tokenizer.json"), "no tokenizer"),
        (lose("model.safetensors"), r"no model\*\.safetensors"),
        (renamed, r"no model\*\.safetensors"),
        (pickled, "pickled weights only"),
        (cut_short, "not a complete safetensors file"),
        (link_outside, "extra.json is not a file inside"),
        (put("config.json", "{"), "config.json is not JSON"),
        (put("config.json", "[]"), "must hold a JSON object"),
        (put("config.json", "[" * 100_000), "config.json is not JSON"),
        (put("config.json", "{}"), "no model_type"),
        (put("config.json", '{"model_type": "x"}'), "vocab_size"),
        (put("config.json", '{"model_type": "x", "vocab_size": -1}'), "vocab_size"),
        (put("config.json", '{"model_type": "x", "vocab_size": true}'), "vocab_size"),
        (
            put("config.json", '{"model_type": "x", "vocab_size": 9, "quantization": {"a": 1}}'),
            "bits",
        ),
        (put("tokenizer_config.json", '{"auto_map": {}}'), "tokenizer_config.json has auto_map"),
        (
            put("config.json", '{"model_type": "x", "vocab_size": 9, "model_file": "m.py"}'),
            "config.json has model_file",
        ),
        (
            put("model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}'),
            "lacks b.safetensors",
        ),
    ],
)
def test_errors_say_what_is_wrong(tmp_path, spoil, message):
    directory = write_model(tmp_path / "m")
    spoil(directory)
    with pytest.raises(InvalidArgument, match=message) as caught:
        artifacts.inspect(directory, field="repo_id")
    assert caught.value.field == "repo_id"


def test_a_hub_caches_snapshot_may_link_to_its_blobs(tmp_path):
    snapshot = write_model(tmp_path / "models--a--b/snapshots/c0ffee")
    blobs = tmp_path / "models--a--b/blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../../blobs/{number}")
    assert artifacts.inspect(snapshot).parameters == 32
    assert "tokenizer.json" in artifacts.tokenizer_files(snapshot)


def test_tokenizer_files_of_a_missing_directory(tmp_path):
    with pytest.raises(IllegalState, match="register the model again"):
        artifacts.tokenizer_files(tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "weights", "text"),
    [
        ("model-00001-of-00002.safetensors", True, False),
        ("consolidated.safetensors", False, False),
        ("tokenizer.json", False, True),
        ("tokenizer.model", False, True),
        ("chat_template.jinja", False, True),
        ("modeling_evil.py", False, False),
        ("pytorch_model.bin", False, False),
        ("../up.json", False, False),
        ("a/b.safetensors", False, False),
        (".hidden.json", False, False),
        ("line\n.json", False, False),
    ],
)
def test_which_files_belong_to_a_model(name, weights, text):
    assert (artifacts.is_weights(name), artifacts.is_text(name)) == (weights, text)


def test_an_unreadable_directory(tmp_path):
    with pytest.raises(InvalidArgument, match="cannot be read"):
        artifacts.inspect(tmp_path / ("x" * (os.pathconf(tmp_path, "PC_NAME_MAX") + 1)))


def test_json_is_not_trusted(tmp_path):
    config = {**CONFIG, "quantization": [1]}
    directory = write_model(tmp_path / "m", config=config)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": []}))
    assert artifacts.inspect(directory).dtype == "float32"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("config.json", b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", "nested more than 64 deep"),
        ("config.json", b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "not JSON"),
        ("config.json", b'{"vocab_size": 1' + b"0" * 4000 + b"}", "more than 32 digits"),
        ("config.json", b'{"a": "' + b"x" * 4 * 2**20 + b'"}', "larger than 4 MiB"),
        ("tokenizer_config.json", b'{"a": "' + b"x" * 16 * 2**20 + b'"}', "larger than 16 MiB"),
        ("generation_config.json", b"[" * 50_000, "not JSON"),
        ("generation_config.json", b" " * 2**20 + b"{}", "larger than 1 MiB"),
        ("chat_template.jinja", b"x" * (2**20 + 1), "larger than 1 MiB"),
        ("model.safetensors.index.json", b'{"weight_map": 1' + b"0" * 99 + b"}", "32 digits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_text_files_are_bounded(tmp_path, name: str, content: bytes, why: str):
    directory = write_model(tmp_path / "m")
    (directory / name).write_bytes(content)
    with pytest.raises(InvalidArgument, match=f"{name}.*{why}"):
        artifacts.inspect(directory)


def test_a_tokenizer_may_be_large_within_its_bound(tmp_path):
    directory = write_model(tmp_path / "m")
    with (directory / "tokenizer.json").open("r+b") as file:
        file.truncate(128 * 2**20 + 1)
    with pytest.raises(InvalidArgument, match=r"tokenizer.json is larger than 128 MiB"):
        artifacts.inspect(directory)
