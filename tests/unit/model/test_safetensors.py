"""Reading safetensors headers, hostile ones included."""

import json
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.safetensors import NotSafetensors, Tensor, read_tensors
from tests.fakes.model_directory import write_safetensors


def test_tensors(tmp_path):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"a": ("BF16", [2, 3], 12), "b": ("F32", [], 4)})
    assert read_tensors(path) == [Tensor("a", "BF16", 6, 12), Tensor("b", "F32", 1, 4)]


# mlx writes null where there is none.
@pytest.mark.parametrize("metadata", [{"format": "mlx"}, None])
def test_metadata_is_no_tensor(tmp_path, metadata):
    path = tmp_path / "m.safetensors"
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert read_tensors(path) == []


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 5000,
        b'{"a": 1}',
        b'{"a": {}}',
        b'{"a": null}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [9223372036854775807], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b"\xff\xfe",
    ],
)
def test_broken_headers(tmp_path, header):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(NotSafetensors):
        read_tensors(path)


@given(st.binary(max_size=64))
def test_random_bytes_are_refused_or_read(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(content)
    with suppress(NotSafetensors):
        assert isinstance(read_tensors(path), list)
