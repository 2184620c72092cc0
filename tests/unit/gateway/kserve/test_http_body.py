"""Bodies of the HTTP protocol: JSON and the values after it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_gateway.http.schema import read_request
from mlxmesh_gateway.kserve.http_body import (
    HEADER_LENGTH,
    InferBody,
    generate_request,
    infer_request,
    parse_infer,
)
from mlxmesh_gateway.kserve.inference import Inference, read_inference
from mlxmesh_gateway.kserve.tensors import encode_bytes
from mlxmesh_shared.errors import InvalidArgument

TEXT = {"name": "text_input", "datatype": "BYTES", "shape": [1]}


def body(*inputs: object, after: bytes = b"", **fields: object) -> tuple[bytes, dict[str, str]]:
    encoded = json.dumps({"inputs": inputs, **fields}).encode()
    return encoded + after, {HEADER_LENGTH: str(len(encoded))}


def binary(size: Any, **fields: object) -> dict[str, object]:
    return {**TEXT, "parameters": {"binary_data_size": size}, **fields}


async def read(content: bytes, headers: dict[str, str]) -> Inference:
    parsed = await parse_infer(content, headers)
    request, _ = read_request(InferBody, parsed)
    return read_inference(infer_request("pocket", "", request), may_stream=False)


@pytest.mark.parametrize("data", [["hé"], [["hé"]]])
async def test_a_value_in_json(data: object) -> None:
    content, _ = body({**TEXT, "data": data})
    assert (await read(content, {})).prompt == "hé"


async def test_values_after_the_json_in_the_order_of_their_inputs() -> None:
    text, stream = encode_bytes("hé".encode()), b"\1"
    flag = {
        "name": "exclude_input_in_output",
        "datatype": "BOOL",
        "shape": [1],
        "parameters": {"binary_data_size": 1},
    }
    inference = await read(*body(binary(len(text)), flag, after=text + stream))
    assert (inference.prompt, inference.lead) == ("hé", "")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (body(binary(9), after=b"12345678"), "text_input"),
        (body(binary(-1)), "text_input"),
        (body(binary(True)), "text_input"),
        (body(binary("5")), "text_input"),
        (body(binary(2**70)), "text_input"),
        (body(binary(5, data=["a"]), after=encode_bytes(b"a")), "text_input"),
        (body(binary(5), after=encode_bytes(b"a") + b"x"), "inputs"),
        (body({**TEXT, "data": ["a"]}, after=b"x"), "inputs"),
        (body(binary(4), after=b"\xff\xff\xff\xff"), "text_input"),
        (body(after=b"x"), "inputs"),
        ((b"{}", {HEADER_LENGTH: "3"}), HEADER_LENGTH),
        ((b"{}", {HEADER_LENGTH: "-1"}), HEADER_LENGTH),
        ((b"{}", {HEADER_LENGTH: "9" * 50}), HEADER_LENGTH),
        ((b"{}", {HEADER_LENGTH: "²"}), HEADER_LENGTH),
        (body({**TEXT, "data": ["a", "b"]}), "text_input"),
        (body({**TEXT, "data": [5]}), "text_input"),
        (body({**TEXT, "data": [[[]]]}), "text_input"),
        (body({**TEXT, "data": None}), "text_input"),
        (body({**TEXT, "shape": [2**62, 2**62], "data": ["a"]}), "text_input"),
        (body({**TEXT, "shape": [-1], "data": ["a"]}), "text_input"),
        (body({**TEXT, "shape": [1] * 17, "data": ["a"]}), "inputs.0.shape"),
        (body({**TEXT, "shape": [True], "data": ["a"]}), "inputs.0.shape.0"),
        (body({**TEXT, "shape": [1.0], "data": ["a"]}), "inputs.0.shape.0"),
        (body(*[{**TEXT, "data": ["a"]}] * 65), "inputs"),
        (body(5), "inputs.0"),
        (body({**TEXT, "data": ["a"]}, id=5), "id"),
        (body({**TEXT, "data": ["a"]}, outputs=[{"name": "x"}]), "x"),
    ],
)
async def test_illegal_bodies(content: tuple[bytes, dict[str, str]], field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await read(*content)
    assert raised.value.field == field


@given(st.binary(max_size=60), st.integers(-5, 80))
async def test_any_bytes_after_the_json_are_a_value_or_an_error(after: bytes, size: int) -> None:
    content, headers = body(binary(size), after=after)
    legal = size == len(after) and after[:4] == (size - 4).to_bytes(4, "little", signed=True)
    try:
        inference = await read(content, headers)
    except InvalidArgument:
        return
    assert legal
    assert inference.prompt.encode() == after[4:]


@pytest.mark.parametrize(
    ("parameters", "requested", "names"),
    [
        ({}, [], set()),
        ({"binary_data_output": True}, [], {"text_output"}),
        ({}, [{"name": "text_output", "parameters": {"binary_data": True}}], {"text_output"}),
        (
            {"binary_data_output": True},
            [{"name": "text_output", "parameters": {"binary_data": False}}],
            set(),
        ),
    ],
)
async def test_which_outputs_are_binary(
    parameters: object, requested: object, names: set[str]
) -> None:
    content, headers = body({**TEXT, "data": ["a"]}, parameters=parameters, outputs=requested)
    parsed = await parse_infer(content, headers)
    request, _ = read_request(InferBody, parsed)
    assert request.binary_outputs(["text_output"]) == names
    read_inference(infer_request("pocket", "", request), may_stream=False)


def generate(content: dict[str, object]) -> Inference:
    return read_inference(generate_request("pocket", "2", content), may_stream=True)


def test_names_of_a_generate_request_are_inputs_or_parameters() -> None:
    inference = generate(
        {
            "id": "7",
            "text_input": "hé",
            "max_tokens": 5,
            "parameters": {"temperature": "0.5", "stream": True},
        }
    )
    assert (inference.id, inference.model, inference.prompt) == ("7", "pocket@2", "hé")
    assert inference.stream
    assert inference.sampling.max_tokens == 5
    assert inference.sampling.temperature == 0.5


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({}, "text_input"),
        ({"text_input": 5}, "text_input"),
        ({"text_input": None}, "text_input"),
        ({"text_input": ["a", "b"]}, "text_input"),
        ({"text_input": "a", "id": 5}, "id"),
        ({"text_input": "a", "parameters": []}, "parameters"),
        ({"text_input": "a", "parameters": {"text_input": "b"}}, "parameters"),
        ({"text_input": "a", "stream": "true"}, "stream"),
        ({"text_input": "a", "parameters": {"n": 2}}, "sampling_parameters.n"),
        ({"text_input": "a", "sampling_parameters": {"n": 1}}, "sampling_parameters"),
    ],
)
def test_illegal_generate_requests(content: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        generate(content)
    assert raised.value.field == field
