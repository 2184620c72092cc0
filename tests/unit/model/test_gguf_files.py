"""Damaged, hostile and unsupported GGUF files: each is rejected by name, in bounded time."""

import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open

from mlxmesh_model.gguf.conversion import convert
from mlxmesh_model.gguf.header import read_header
from mlxmesh_model.gguf.metadata import BadFile, NotSupported
from mlxmesh_model.gguf.weights import Dtype
from tests.fakes.gguf_files import TOKENS, Shape, write_gguf

TEXT, ARRAY, UINT32 = 8, 9, 4


def text(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def head(*, tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def tensor(name: str, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


KEY = text("a") + struct.pack("<I", UINT32) + b"\0\0\0\0"
HOSTILE = {
    "empty": (b"", "does not begin with GGUF"),
    "another format": (b"PK\3\4" + bytes(100), "does not begin with GGUF"),
    "version": (head(version=1), "version is 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "little-endian"),
    "tensor count": (head(tensors=2**63), "tensors"),
    "key count": (head(keys=2**64 - 1), "metadata keys"),
    "cut short": (head(keys=5) + KEY, "beyond the end"),
    "name": (head(keys=1) + struct.pack("<Q", 2**62), "the name of a key"),
    "same key": (head(keys=2) + KEY + KEY, "key a twice"),
    "text": (
        head(keys=1) + text("a") + struct.pack("<IQ", TEXT, 2**50),
        "a has a string of",
    ),
    "not UTF-8": (head(keys=1) + text("a") + struct.pack("<I", TEXT) + text(b"\xff"), "UTF-8"),
    "value type": (head(keys=1) + text("a") + struct.pack("<I", 77) + bytes(64), "type"),
    "array of empty texts": (
        head(keys=1) + text("a") + struct.pack("<IIQ", ARRAY, TEXT, 2**60),
        "values up to and in a",
    ),
    "array of arrays": (
        head(keys=1) + text("a") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + bytes(64),
        "type",
    ),
    "array of numbers": (
        head(keys=1) + text("a") + struct.pack("<IIQ", ARRAY, UINT32, 2**21),
        "beyond the end",
    ),
    "dimensions": (head(tensors=1) + tensor("t", [1] * 9), "9 dimensions"),
    "no dimension": (head(tensors=1) + tensor("t", []), "0 dimensions"),
    "shape": (head(tensors=1) + tensor("t", [2**62, 2**62]), "illegal shape"),
    "nothing in it": (head(tensors=1) + tensor("t", [0]), "illegal shape"),
    "blocks": (head(tensors=1) + tensor("t", [33], kind=2), "whole number of blocks"),
    "offset": (head(tensors=1) + tensor("t", [4], offset=2**60), "beyond the end"),
    "same tensor": (head(tensors=2) + tensor("t", [4]) * 2 + bytes(64), "tensor t twice"),
    "overlap": (
        head(tensors=2) + tensor("t", [4]) + tensor("u", [4], offset=8) + bytes(64),
        "overlaps",
    ),
    "quantization": (head(tensors=1) + tensor("t", [256], kind=14), "Q6_K"),
    "unknown type": (head(tensors=1) + tensor("t", [256], kind=9999), "9999"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_rejected_by_name(tmp_path, case):
    content, message = HOSTILE[case]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises((BadFile, NotSupported), match=message):
        read_header(path)


def converted(tmp_path: Path, shape: Shape, dtype: Dtype | None = None) -> Path:
    path = write_gguf(tmp_path / "x.gguf", shape)
    convert(path, tmp_path / "model", dtype, lambda done, total: None)
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.attention.head_count": "4"}, "head_count"),
        ({"llama.attention.head_count": 0}, "head_count"),
        ({"llama.attention.head_count_kv": 3}, "cannot share"),
        ({"llama.block_count": 2**31}, "block_count"),
        ({"llama.block_count": 3}, "blk.2"),
        ({"llama.embedding_length": 96}, "key_length|shape|size of a head"),
        ({"llama.feed_forward_length": 64}, "ffn_gate.weight has the shape"),
        ({"llama.context_length": 0}, "context_length"),
        ({"llama.rope.freq_base": float("nan")}, "freq_base"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count"),
        ({"llama.rope.scaling.type": "longrope"}, "longrope"),
        ({"llama.expert_count": 8}, "experts"),
        ({"split.count": 3}, "one part of a split file"),
        ({"general.alignment": 12}, "power of two"),
        ({"general.architecture": "mamba"}, "architecture is mamba"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model is bert"),
        ({"tokenizer.ggml.pre": "default"}, "tokenizer.ggml.pre.* is default"),
        ({"tokenizer.ggml.eos_token_id": len(TOKENS)}, "eos_token_id"),
        ({"tokenizer.chat_template": "x" * 2**19}, "chat_template"),
    ],
)
def test_inconsistent_metadata_is_rejected_by_its_key(tmp_path, metadata, message):
    # The writer keeps the last value of a key that is written twice.
    with pytest.raises((BadFile, NotSupported), match=message):
        converted(tmp_path, Shape(metadata=metadata))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1])
def test_weights_that_are_not_finite_are_rejected(tmp_path, kind, value):
    path = write_gguf(tmp_path / "x.gguf", Shape(kind=kind))
    place = read_header(path).tensors["blk.1.ffn_up.weight"]
    bad = {Type.F32: struct.pack("<f", value), Type.BF16: struct.pack("<f", value)[2:]}
    with path.open("r+b") as file:
        file.seek(place.offset + 7 * place.row_bytes)
        file.write(bad.get(kind, struct.pack("<e", value)))
    with pytest.raises(
        BadFile, match=r"blk\.1\.ffn_up\.weight has values that are NaN or infinite"
    ):
        convert(path, tmp_path / "model", None, lambda done, total: None)


def test_a_value_too_large_for_float16_is_rejected_with_a_remedy(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", Shape(kind=Type.Q8_0))
    place = read_header(path).tensors["output_norm.weight"]
    with path.open("r+b") as file:
        file.seek(place.offset)
        file.write(struct.pack("<f", 70_000))
    with pytest.raises(NotSupported, match="bfloat16 or float32"):
        convert(path, tmp_path / "model", None, lambda done, total: None)
    convert(path, tmp_path / "other", Dtype.BFLOAT16, lambda done, total: None)


def test_an_unknown_tensor_is_rejected(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", Shape("qwen3"))
    content = path.read_bytes()
    # The same length, so that every offset stays right.
    path.write_bytes(content.replace(b"blk.1.attn_q_norm.weight", b"blk.1.attn_x_norm.weight"))
    with pytest.raises(BadFile, match=r"no tensor blk\.1\.attn_q_norm\.weight"):
        convert(path, tmp_path / "model", None, lambda done, total: None)


def test_damaged_bytes_are_rejected_or_converted(tmp_path):
    """Thousands of damaged headers: no other errors, and no model with infinite weights."""
    path = write_gguf(tmp_path / "x.gguf", Shape(layers=1, vocab=288))
    content = path.read_bytes()
    header_bytes = min(t.offset for t in read_header(path).tensors.values())
    generator = random.Random(7)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 3)):
            # Most of the header is tokens: half of the damage goes elsewhere.
            end = generator.choice([600, header_bytes])
            damaged[generator.randrange(end)] = generator.choice([0, 1, 127, 255])
        cut = generator.randrange(30, len(content)) if generator.random() < 0.2 else len(content)
        path.write_bytes(damaged[:cut])
        try:
            convert(path, tmp_path / "model", None, lambda done, total: None)
        except (BadFile, NotSupported):
            refused += 1
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
    assert 100 < refused < 1000


def test_safetensors_reads_what_was_written(tmp_path):
    model = converted(tmp_path, Shape(kind=Type.Q4_0, embedding_kind=Type.F16))
    with safe_open(model / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "mlx"}
        assert file.get_tensor("model.layers.0.mlp.up_proj.weight").dtype == np.uint32
        assert file.get_tensor("model.layers.0.mlp.up_proj.scales").shape == (96, 2)
        assert file.get_tensor("model.embed_tokens.weight").dtype == np.float16


def test_progress_ends_with_the_total(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", Shape())
    steps: list[tuple[int, int]] = []
    convert(path, tmp_path / "model", None, lambda done, total: steps.append((done, total)))
    assert steps[0][0] == 0
    assert steps[-1][0] == steps[-1][1]
    assert steps == sorted(steps)


def child(*arguments: Path | str, before: str = "") -> tuple[int, list[str]]:
    """Runs the process after a statement of the test; returns its exit code and reports."""
    program = (
        "import resource, sys\n"
        "from mlxmesh_model.gguf.__main__ import main\n"
        f"{before}\n"
        "code = main(sys.argv[1:])\n"
        "print(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')))\n"
        "sys.exit(code)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = process.stdout.read().split("\n")
    process.communicate()
    return process.returncode, told


def test_an_incomplete_write_is_reported(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", Shape())
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    code, told = child(path, tmp_path / "model", before=limit)
    assert code == 1
    assert any('"failure": "full"' in line for line in told)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 330 MB, whose largest tensor has 134 MB."""
    shape = Shape(hidden=1024, heads=8, kv_heads=8, head_dim=128, intermediate=16_384,
                  layers=1, vocab=32_768)  # fmt: skip
    return write_gguf(tmp_path_factory.mktemp("large") / "large.gguf", shape)


def test_memory_is_bounded_for_any_size_of_model(tmp_path, large):
    assert large.stat().st_size > 300e6
    code, told = child(large, tmp_path / "model", "bfloat16")
    assert code == 0
    [peak] = [line for line in told if line.startswith("VmHWM")]
    assert int(peak.split()[1]) < 150_000, peak


def test_the_process_ends_with_its_parent(tmp_path, large):
    """It detects the end of its stdin; converting the file would take much longer."""
    command = [sys.executable, "-m", "mlxmesh_model.gguf", str(large), str(tmp_path / "model")]
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert process.returncode == 1
    assert b'"failure"' not in process.stdout
