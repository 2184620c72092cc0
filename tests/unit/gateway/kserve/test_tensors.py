"""Tensors: each illegal one is an error that names it, whatever it claims to hold."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_gateway.kserve.tensors import (
    INPUTS,
    RequestedOutput,
    Tensor,
    decode_bytes,
    encode_bytes,
    encode_count,
    read_inputs,
    read_outputs,
)
from mlxmesh_shared.errors import InvalidArgument


def tensor(name: str = "text_input", **fields: Any) -> Tensor:
    return Tensor(**{"name": name, "datatype": INPUTS.get(name, "BYTES"), "shape": (1,)} | fields)


@given(st.binary(max_size=300))
def test_a_value_survives_its_encoding(value: bytes) -> None:
    assert decode_bytes(encode_bytes(value)) == value
    assert read_inputs([tensor(raw=encode_bytes(value))]) == {"text_input": value}


@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_or_an_error_that_names_the_tensor(raw: bytes) -> None:
    whole = len(raw) >= 4 and struct.unpack("<I", raw[:4])[0] == len(raw) - 4
    if whole:
        assert read_inputs([tensor(raw=raw)]) == {"text_input": raw[4:]}
        return
    with pytest.raises(InvalidArgument) as raised:
        read_inputs([tensor(raw=raw)])
    assert raised.value.field == "text_input"


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).filter(
        lambda shape: tuple(shape) not in ((1,), (1, 1))
    )
)
def test_only_shapes_of_one_value_are_legal(shape: list[int]) -> None:
    with pytest.raises(InvalidArgument, match="text_input must have the shape"):
        read_inputs([tensor(shape=shape, raw=encode_bytes(b"a"))])


@pytest.mark.parametrize("shape", [(1,), (1, 1), [1]])
def test_both_shapes_of_one_value_are_legal(shape: object) -> None:
    assert read_inputs([tensor(shape=shape, values=[b"a"])]) == {"text_input": b"a"}


@pytest.mark.parametrize(("raw", "value"), [(b"\0", False), (b"\1", True)])
def test_truth_values(raw: bytes, value: bool) -> None:
    assert read_inputs([tensor("stream", raw=raw)]) == {"stream": value}
    assert read_inputs([tensor("stream", values=[value])]) == {"stream": value}


@pytest.mark.parametrize(
    ("illegal", "field", "words"),
    [
        (tensor("stream", raw=b"\2"), "stream", "one byte, 0 or 1"),
        (tensor("stream", raw=b""), "stream", "one byte, 0 or 1"),
        (tensor("stream", raw=b"\1\1"), "stream", "one byte, 0 or 1"),
        (tensor("stream", values=[1]), "stream", "datatype BOOL"),
        (tensor("stream", datatype="BYTES", values=[True]), "stream", "datatype BOOL"),
        (tensor(values=[True]), "text_input", "datatype BYTES"),
        (tensor(values=["a"]), "text_input", "datatype BYTES"),
        (tensor(values=[]), "text_input", "one value, but has 0"),
        (tensor(values=[b"a", b"b"]), "text_input", "one value, but has 2"),
        (tensor(datatype="FP64", values=[b"a"]), "text_input", "datatype BYTES"),
        (tensor(datatype="", values=[b"a"]), "text_input", "datatype BYTES"),
        (tensor(raw=b"\xff\xff\xff\xff"), "text_input", "4294967295 bytes, but 0 follow"),
        (tensor(raw=b"\1\0\0"), "text_input", "length of its value in 4 bytes"),
        (tensor(raw=encode_bytes(b"a") + b"b"), "text_input", "1 bytes, but 2 follow"),
        (
            tensor(parameters=["shared_memory_region"], values=[b"a"]),
            "text_input",
            "not supported: shared_memory_region",
        ),
        (tensor(parameters=["\n secret"], values=[b"a"]), "text_input", "not supported"),
        (tensor("image", values=[b"a"]), "image", "image is no input; there are: text_input"),
        (tensor("", values=[b"a"]), "inputs", "an input that is not known"),
        (tensor("x" * 101, values=[b"a"]), "inputs", "an input that is not known"),
        (tensor("a\nb", values=[b"a"]), "inputs", "an input that is not known"),
    ],
)
def test_illegal_tensors(illegal: Tensor, field: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as raised:
        read_inputs([illegal])
    assert raised.value.field == field
    assert "secret" not in raised.value.message


def test_a_tensor_may_occur_once() -> None:
    twice = [tensor(values=[b"a"]), tensor(values=[b"b"])]
    with pytest.raises(InvalidArgument, match="text_input occurs twice"):
        read_inputs(twice)


def test_outputs() -> None:
    names = ["num_output_tokens", "text_output"]
    assert read_outputs(RequestedOutput(name=name) for name in names) == names


@pytest.mark.parametrize(
    ("outputs", "field", "words"),
    [
        ([RequestedOutput(name="logprobs")], "logprobs", "logprobs is no output"),
        ([RequestedOutput(name="text_output")] * 2, "text_output", "requested twice"),
        (
            [RequestedOutput(name="text_output", parameters=["classification"])],
            "text_output",
            "not supported: classification",
        ),
    ],
)
def test_illegal_outputs(outputs: list[RequestedOutput], field: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as raised:
        read_outputs(outputs)
    assert raised.value.field == field


def test_counts_are_little_endian() -> None:
    assert encode_count(258) == b"\2\1\0\0"
