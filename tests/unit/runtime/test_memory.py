from pathlib import Path

from mlxmesh_runtime.device import needed_bytes
from mlxmesh_runtime.engine_record import EngineOptions, EngineSpec, ModelFiles
from mlxmesh_runtime.memory_guard import ENGINE_OVERHEAD_BYTES


def spec(model_dir: Path, size: int = 1, weights_bytes: int = 0) -> EngineSpec:
    return EngineSpec(
        engine_id="e",
        model="m",
        model_version=1,
        model_dir=model_dir,
        options=EngineOptions(group_size=size),
        files=ModelFiles("a" * 64, weights_bytes),
    )


def test_the_needed_memory_is_weights_and_overhead(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x" * 24)
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 5000)
    assert needed_bytes(spec(tmp_path)) == 1024 + ENGINE_OVERHEAD_BYTES


def test_linked_weights_count(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x" * 300)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    assert needed_bytes(spec(tmp_path)) == 300 + ENGINE_OVERHEAD_BYTES


def test_a_rank_needs_its_share_of_the_weights(tmp_path: Path) -> None:
    of_three = spec(tmp_path, 3, weights_bytes=3000)
    assert needed_bytes(of_three) == 1000 + ENGINE_OVERHEAD_BYTES
    assert needed_bytes(of_three, share_ppm=700_000) == 2100 + ENGINE_OVERHEAD_BYTES
