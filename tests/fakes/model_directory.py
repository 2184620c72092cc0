"""Model directories of a few bytes that look whole to whoever does not load them."""

import json
import struct
from pathlib import Path
from typing import Any

CONFIG = {
    "model_type": "llama",
    "max_position_embeddings": 256,
    "vocab_size": 32,
    "hidden_size": 4,
}


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> None:
    """A safetensors file of zeros; a tensor is its dtype, shape and size in bytes."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(offset))


def write_model(directory: Path, *, rows: int = 8, config: dict[str, Any] | None = None) -> Path:
    """A Llama of rows x 4 float32 weights with a tokenizer; `rows` makes its content differ."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (directory / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}}}')
    (directory / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    tensors = {"model.embed_tokens.weight": ("F32", [rows, 4], rows * 16)}
    write_safetensors(directory / "model.safetensors", tensors)
    return directory
