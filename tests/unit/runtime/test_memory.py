from pathlib import Path

from mlxmesh_runtime.device import needed_bytes
from mlxmesh_runtime.memory_guard import ENGINE_OVERHEAD_BYTES


def test_the_needed_memory_is_weights_and_overhead(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x" * 24)
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 5000)
    assert needed_bytes(tmp_path) == 1024 + ENGINE_OVERHEAD_BYTES


def test_linked_weights_count(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x" * 300)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    assert needed_bytes(tmp_path) == 300 + ENGINE_OVERHEAD_BYTES
