"""What a request asks for: its model, its prompt, its stream, its outputs."""

from __future__ import annotations

from typing import Any

import pytest

from mlxmesh_gateway.kserve.inference import (
    MAX_ID_CHARACTERS,
    Inference,
    InferRequest,
    read_inference,
    shorter,
)
from mlxmesh_gateway.kserve.tensors import INPUTS, RequestedOutput, Tensor
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument


def request(
    *outputs: str,
    model_name: str = "pocket",
    model_version: str = "",
    request_id: str = "",
    parameters: dict[str, object] | None = None,
    **inputs: object,
) -> InferRequest:
    tensors = {"text_input": b"hello", **inputs}
    return InferRequest(
        model_name=model_name,
        model_version=model_version,
        id=request_id,
        parameters=parameters or {},
        inputs=[
            Tensor(name=name, datatype=INPUTS[name], shape=(1,), values=(value,))
            for name, value in tensors.items()
            if value is not None
        ],
        outputs=[RequestedOutput(name=name) for name in outputs],
    )


def read(*outputs: str, **fields: Any) -> Inference:
    return read_inference(request(*outputs, **fields), may_stream=True, refuse_unknown=True)


def test_the_defaults() -> None:
    inference = read(request_id="7")
    assert (inference.id, inference.model, inference.prompt) == ("7", "pocket", "hello")
    assert not inference.stream
    assert inference.lead == "hello"
    assert inference.outputs == ("text_output",)
    assert inference.timeout_s is None
    assert not inference.empty_final_response


@pytest.mark.parametrize(
    ("stream", "excludes", "lead"),
    [
        (None, None, "hello"),
        (None, True, ""),
        (None, False, "hello"),
        (True, None, ""),
        (True, True, ""),
    ],
)
def test_the_prompt_leads_the_output_as_in_tritons_back_end(
    stream: bool | None, excludes: bool | None, lead: str
) -> None:
    assert read(stream=stream, exclude_input_in_output=excludes).lead == lead


@pytest.mark.parametrize(
    ("name", "version", "model"),
    [
        ("pocket", "", "pocket"),
        ("pocket", "3", "pocket@3"),
        ("pocket@2", "", "pocket@2"),
        ("pocket:beta", "", "pocket:beta"),
    ],
)
def test_models(name: str, version: str, model: str) -> None:
    assert read(model_name=name, model_version=version).model == model


def test_outputs_that_are_asked_for_by_inputs_or_by_name() -> None:
    flags = {"return_finish_reason": True, "return_num_output_tokens": True}
    assert read(**flags).outputs == ("text_output", "finish_reason", "num_output_tokens")
    assert read("num_input_tokens", **flags).outputs == ("num_input_tokens",)


def test_parameters_of_the_request() -> None:
    inference = read(
        parameters={
            "timeout": 1_500_000,
            "triton_enable_empty_final_response": True,
            "priority": 0,
            "max_tokens": 3,
        }
    )
    assert inference.timeout_s == 1.5
    assert inference.empty_final_response
    assert inference.sampling.max_tokens == 3


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"text_input": None}, "text_input"),
        ({"text_input": b"\xff"}, "text_input"),
        ({"stream": True, "exclude_input_in_output": False}, "exclude_input_in_output"),
        ({"model_version": "0"}, "model_version"),
        ({"model_version": "latest"}, "model_version"),
        ({"model_version": "1" * 10}, "model_version"),
        ({"model_version": "1", "model_name": "pocket@1"}, "model_version"),
        ({"model_version": "1", "model_name": "pocket:beta"}, "model_version"),
        ({"request_id": "x" * (MAX_ID_CHARACTERS + 1)}, "id"),
        ({"parameters": {f"p{number}": 1 for number in range(101)}}, "parameters"),
        ({"parameters": {"timeout": -1}}, "timeout"),
        ({"parameters": {"timeout": 2**63}}, "timeout"),
        ({"parameters": {"timeout": 1.5}}, "timeout"),
        ({"parameters": {"timeout": True}}, "timeout"),
        (
            {"parameters": {"triton_enable_empty_final_response": "yes"}},
            "triton_enable_empty_final_response",
        ),
        ({"parameters": {"unknown": 1}}, "sampling_parameters.unknown"),
    ],
)
def test_illegal_requests(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read(**fields)
    assert raised.value.field == field


def test_tritons_priority_is_refused_because_its_order_is_another() -> None:
    with pytest.raises(FeatureNotSupported, match="priority"):
        read(parameters={"priority": 1})


def test_a_stream_needs_a_method_that_streams() -> None:
    with pytest.raises(InvalidArgument, match="stream must be false here"):
        read_inference(request(stream=True), may_stream=False)


@pytest.mark.parametrize(
    ("first", "second", "result"), [(None, None, None), (1, None, 1), (None, 2, 2), (3, 2, 2)]
)
def test_the_shorter_of_two_deadlines(
    first: float | None, second: float | None, result: float | None
) -> None:
    assert shorter(first, second) == result
