"""What `--model TEXT` means."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxmesh_launcher.options import bundled_models, parse_source
from mlxmesh_shared.errors import InvalidArgument


def test_the_bundled_models_are_found() -> None:
    models = bundled_models()
    assert set(models) >= {"pocket", "pocket-mini"}
    assert parse_source("pocket") == models["pocket"]


def test_a_directory_is_named_for_itself(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    source = parse_source(str(tmp_path / "mine"))
    assert (source.name, source.directory) == ("mine", tmp_path / "mine")


@pytest.mark.parametrize(
    ("file", "name"),
    [("Tiny-1.5B.Q8_0.gguf", "Tiny-1.5B.Q8_0"), ("_my model (1).gguf", "my-model-1-")],
)
def test_a_gguf_file_is_named_for_itself_as_far_as_names_allow(
    tmp_path: Path, file: str, name: str
) -> None:
    (tmp_path / file).write_bytes(b"GGUF")
    source = parse_source(str(tmp_path / file))
    assert (source.name, source.file) == (name, tmp_path / file)


def test_a_hub_id_is_named_for_its_last_part() -> None:
    source = parse_source("mlx-community/Qwen3-0.6B-4bit")
    assert (source.name, source.repo_id) == ("Qwen3-0.6B-4bit", "mlx-community/Qwen3-0.6B-4bit")


@pytest.mark.parametrize("text", ["", "nothing", "./nothing", "/no/where", "a/b/c", "~/x", "/x"])
def test_anything_else_is_refused_with_the_possibilities(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"pocket.*config\.json.*hub id") as caught:
        parse_source(text)
    assert caught.value.field == "model"
