"""Converts a GGUF file to an mlx-lm model directory in bounded memory."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlxmesh_model.gguf.architectures import architecture_of, config_of, target_tensors
from mlxmesh_model.gguf.header import GgufHeader, GgufTensor, read_header
from mlxmesh_model.gguf.kinds import Raw
from mlxmesh_model.gguf.metadata import BadFile
from mlxmesh_model.gguf.rope import ROPE_FREQUENCIES
from mlxmesh_model.gguf.tensor_file import TensorFile
from mlxmesh_model.gguf.tokenizer import GgufTokenizer
from mlxmesh_model.gguf.weights import Dtype, Weight, plan_weights, quantization_of

OnProgress = Callable[[int, int], None]
"""Called with the bytes written so far and the total."""


class NotEnoughDisk(Exception):
    """The disk has too little free space for the model."""


def convert(path: Path, directory: Path, dtype: Dtype | None, on_progress: OnProgress) -> None:
    """Fills a new directory. All errors of the file are found before any weight is written, except
    values that are not finite.

    Raises: BadFile, NotSupported, NotEnoughDisk; OSError, for example when the disk is full.
    """
    header = read_header(path)
    with path.open("rb") as file:
        architecture = architecture_of(header)
        targets = target_tensors(header, architecture)
        config = config_of(header, architecture, _rope_divisors(header, file))
        weights = plan_weights(header.tensors, targets, dtype)
        tokenizer = GgufTokenizer(header.metadata)
        texts = _texts(config, tokenizer, weights)
        directory.mkdir(parents=True)
        for name, text in texts.items():
            _write(directory / name, text)
        _write_weights(file, weights, directory / "model.safetensors", on_progress)
    _sync(directory)


def _texts(
    config: dict[str, Any], tokenizer: GgufTokenizer, weights: list[Weight]
) -> dict[str, str]:
    """The contents of the text files, by name."""
    ends = tokenizer.end_token_ids()
    quantization = quantization_of(weights)
    config = {
        **config,
        **({"eos_token_id": ends} if ends else {}),
        **({"quantization": quantization} if quantization else {}),
    }
    return {
        "config.json": json.dumps(config, indent=2),
        "tokenizer_config.json": json.dumps(
            tokenizer.config(config["max_position_embeddings"]), indent=2, ensure_ascii=False
        ),
        "tokenizer.json": tokenizer.build().to_str(),
    }


def _rope_divisors(header: GgufHeader, file: BinaryIO) -> list[float] | None:
    tensor = header.tensors.get(ROPE_FREQUENCIES)
    if tensor is None:
        return None
    if tensor.rows != 1 or tensor.columns > 4096:
        raise BadFile(f"tensor {ROPE_FREQUENCIES} is not a vector of a head's size")
    values = tensor.kind.numbers(_read_rows(file, tensor, 0, 1))[0]
    if not np.isfinite(values).all() or not (values > 0).all():
        raise BadFile(f"tensor {ROPE_FREQUENCIES} has values that are not positive numbers")
    return values.tolist()


def _write_weights(
    file: BinaryIO, weights: list[Weight], path: Path, on_progress: OnProgress
) -> None:
    parts = [part for weight in weights for part in weight.parts]
    total = sum(part.size_bytes for part in parts)
    free = shutil.disk_usage(path.parent).free
    if total > free:
        raise NotEnoughDisk(f"the model needs {total:,} bytes, and {free:,} are free")
    done = 0
    on_progress(done, total)
    with TensorFile(path, parts) as output:
        for weight in weights:
            for first in range(0, weight.source.rows, weight.slice_rows):
                rows = min(weight.slice_rows, weight.source.rows - first)
                raw = _read_rows(file, weight.source, first, rows)
                for part, values in zip(weight.parts, weight.convert(raw), strict=True):
                    done += output.append(part, values)
                on_progress(done, total)


def _read_rows(file: BinaryIO, tensor: GgufTensor, first: int, rows: int) -> Raw:
    file.seek(tensor.offset + first * tensor.row_bytes)
    content = file.read(rows * tensor.row_bytes)
    if len(content) != rows * tensor.row_bytes:
        raise BadFile(
            f"tensor {tensor.name} is cut short: the file was truncated during the conversion"
        )
    return np.frombuffer(content, np.uint8).reshape(rows, tensor.row_bytes)


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
