"""Reading safetensors headers, hostile ones included."""

import json
import struct
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.artifacts.safetensors import NotSafetensors, Tensor, read_tensors
from tests.fakes.model_directory import write_safetensors


def test_tensors(tmp_path):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"a": ("BF16", [2, 3], 12), "b": ("F32", [], 4)})
    assert read_tensors(path) == [Tensor("a", "BF16", 6, 12, (2, 3)), Tensor("b", "F32", 1, 4)]


# mlx writes null where there is none.
@pytest.mark.parametrize("metadata", [{"format": "mlx"}, None])
def test_metadata_is_not_a_tensor(tmp_path, metadata):
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
        b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}' % b",".join([b"1"] * 17),
        b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}' % (b"9" * 400),
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, %s]}}' % (b"9" * 4000),
        b'{"a": {"dtype": "%s", "shape": [1], "data_offsets": [0, 4]}}' % (b"F" * 99),
    ],
    ids=lambda header: header[:60].decode(errors="replace"),
)
def test_broken_headers(tmp_path, header):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(NotSafetensors):
        read_tensors(path)


@given(st.binary(max_size=64))
def test_random_bytes_are_rejected_or_read(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(content)
    with suppress(NotSafetensors):
        assert isinstance(read_tensors(path), list)


def test_long_numbers_in_many_dimensions_are_cheap(tmp_path):
    """Their product took 18 minutes of CPU; bounds are checked before anything is multiplied."""
    shape = b",".join([b"9" * 4000] * 3000)
    header = b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 4]}}' % shape
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    before_s = time.process_time()
    with pytest.raises(NotSafetensors):
        read_tensors(path)
    assert time.process_time() - before_s < 20


def test_a_header_above_the_bound_is_not_read(tmp_path):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 33 * 2**20))
        file.truncate(40 * 2**20)
    with pytest.raises(NotSafetensors, match="no safetensors header"):
        read_tensors(path)
