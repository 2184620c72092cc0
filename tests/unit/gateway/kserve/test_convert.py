"""The protocol's messages to and from those of the mesh."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.inference.v2 import inference_pb2 as pb
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_gateway.kserve import convert
from mlxmesh_gateway.kserve.errors import error_body, renamed
from mlxmesh_gateway.kserve.inference import Inference, read_inference
from mlxmesh_gateway.kserve.output import Part
from mlxmesh_gateway.kserve.tensors import encode_bytes
from mlxmesh_shared.errors import InvalidArgument, ModelNotFound


def message(sampling: str = "", *, raw: bool = True) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="pocket", id="r-7")
    values = {"text_input": b"h\xc3\xa9", "sampling_parameters": sampling.encode()}
    for name, value in values.items():
        if value:
            tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
            if raw:
                request.raw_input_contents.append(encode_bytes(value))
            else:
                tensor.contents.bytes_contents.append(value)
    return request


def read(request: pb.ModelInferRequest) -> Inference:
    return read_inference(convert.infer_request(request), may_stream=True)


@pytest.mark.parametrize("raw", [True, False])
def test_a_request_becomes_one_of_the_mesh(raw: bool) -> None:
    sampling = {"max_tokens": "9", "temperature": 0.5, "seed": 3, "stop": ["x"], "top_k": 2}
    given = json.dumps({**sampling, "logit_bias": {"4": 1}})
    generate = convert.generate_request(read(message(given, raw=raw)))
    assert generate.prompt == "hé"
    assert generate.max_tokens == 9
    assert generate.stop == ["x"]
    assert generate.sampling.temperature == 0.5
    assert generate.sampling.seed == 3
    assert generate.sampling.top_k == 2
    assert generate.sampling.logit_bias == {4: 1}


def test_without_sampling_the_mesh_decides() -> None:
    generate = convert.generate_request(read(message()))
    assert generate == g.GenerateRequest(model="pocket", prompt="hé")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("json_schema", {"type": "object"}, '{"type": "object"}'),
        ("regex", "a+", "a+"),
        ("grammar", "start: A", "start: A"),
        ("choice", ["a", "b"], g.Choices(texts=["a", "b"])),
        ("json_object", True, g.JsonObject()),
    ],
)
def test_a_constraint_becomes_the_contracts(name: str, value: object, expected: object) -> None:
    sampling = json.dumps({name: value, "session_id": "s"})
    generate = convert.generate_request(read(message(sampling)))
    assert generate.WhichOneof("constraint") == name
    assert getattr(generate, name) == expected
    assert generate.session_id == "s"


def test_a_constraint_is_alone() -> None:
    one = '{"json_object": false, "choice": null, "regex": "a"}'
    assert convert.generate_request(read(message(one))).regex == "a"
    with pytest.raises(InvalidArgument) as raised:
        convert.generate_request(read(message('{"regex": "a", "json_object": true}')))
    assert raised.value.field == "sampling_parameters.json_object"


@pytest.mark.parametrize("token_id", ["-1", "x", "1.5", "9999999999", ""])
def test_the_names_of_a_logit_bias_are_token_ids(token_id: str) -> None:
    inference = read(message(f'{{"logit_bias": {{"{token_id}": 1}}}}'))
    with pytest.raises(InvalidArgument) as raised:
        convert.generate_request(inference)
    assert raised.value.field == "sampling_parameters.logit_bias"


def test_parameters_of_each_kind() -> None:
    request = message()
    request.parameters["ignore_eos"].bool_param = True
    request.parameters["max_tokens"].int64_param = 4
    request.parameters["temperature"].double_param = 0.5
    request.parameters["top_p"].string_param = "0.5"
    request.parameters["seed"].uint64_param = 2**64 - 1
    generate = convert.generate_request(read(request))
    assert (generate.ignore_eos, generate.max_tokens) == (True, 4)
    assert (generate.sampling.temperature, generate.sampling.top_p) == (0.5, 0.5)
    assert generate.sampling.seed == 2**64 - 1


def _no_value() -> pb.ModelInferRequest:
    request = message()
    request.parameters["seed"].SetInParent()
    return request


def _too_few_raw() -> pb.ModelInferRequest:
    request = message("{}")
    del request.raw_input_contents[1]
    return request


def _raw_and_contents() -> pb.ModelInferRequest:
    request = message()
    request.inputs[0].contents.bytes_contents.append(b"x")
    return request


def _other_contents() -> pb.ModelInferRequest:
    request = message(raw=False)
    request.inputs[0].contents.fp32_contents.append(1)
    return request


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (_no_value(), "parameters"),
        (_too_few_raw(), "raw_input_contents"),
        (_raw_and_contents(), "text_input"),
        (_other_contents(), "text_input"),
    ],
)
def test_values_where_they_do_not_belong(request_: pb.ModelInferRequest, field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read(request_)
    assert raised.value.field == field


@given(st.binary(max_size=200))
def test_any_message_is_a_request_or_an_error_that_names_a_field(encoded: bytes) -> None:
    try:
        request = pb.ModelInferRequest.FromString(encoded)
    except Exception:  # noqa: BLE001 - not a message: the server refuses it before
        return
    with pytest.raises(InvalidArgument) as raised:
        read(request)  # none of so few bytes has a text_input
    assert raised.value.field


STARTED = g.Started(model="pocket", model_version=3, prompt_tokens=5)


def stream(*events: g.GenerateResponse) -> list[Part | None]:
    parts = convert.StreamedParts()
    return [parts.read(event.SerializeToString()) for event in events]


def test_a_stream_as_parts() -> None:
    assert stream(
        g.GenerateResponse(started=STARTED),
        g.GenerateResponse(prefill_progress=g.PrefillProgress(processed_tokens=1)),
        g.GenerateResponse(delta=g.Delta(text="a", token_ids=[1, 2])),
        g.GenerateResponse(finished=g.Finished(finish_reason=g.FINISH_REASON_LENGTH)),
    ) == [None, None, Part("a", 2, 5, "", 3, False), Part("", 0, 5, "length", 3, True)]


def test_a_whole_generation_as_one_part() -> None:
    response = g.CompleteResponse(
        started=STARTED,
        text="a b",
        token_ids=[1, 2, 3],
        finished=g.Finished(finish_reason=g.FINISH_REASON_STOP),
    )
    assert convert.whole_part(response) == Part("a b", 3, 5, "stop", 3, True)


def test_responses_tell_ignored_names_once_and_lead_with_the_prompt_once() -> None:
    responses = convert.Responses(read(message('{"foo": 1, "bar": 2}')))
    first, second = (responses.of(Part("a", 1, 5, "", 3, False)) for _ in range(2))
    assert first.parameters["mlxmesh-ignored-fields"].string_param == "foo, bar"
    assert not second.parameters
    assert first.raw_output_contents[0] == encode_bytes("héa".encode())
    assert second.raw_output_contents[0] == encode_bytes(b"a")
    assert (first.id, first.model_name, first.model_version) == ("r-7", "pocket", "3")


def test_the_last_response_of_a_stream_is_marked() -> None:
    responses = convert.Responses(read(message()))
    running = responses.streamed(Part("a", 1, 5, "", 3, False)).infer_response
    last = responses.streamed(Part("", 0, 5, "stop", 3, True), empty=True).infer_response
    assert not running.parameters["triton_final_response"].bool_param
    assert last.parameters["triton_final_response"].bool_param
    assert not last.outputs


@pytest.mark.parametrize(
    ("states", "default", "ready"),
    [
        ({1: m.VERSION_STATE_READY}, 1, True),
        ({1: m.VERSION_STATE_AVAILABLE}, 1, False),
        ({1: m.VERSION_STATE_READY, 2: m.VERSION_STATE_LOADING}, 2, False),
        ({1: m.VERSION_STATE_READY, 2: m.VERSION_STATE_LOADING}, 1, True),
        # With a version in the reference there is only that one, whatever the default.
        ({2: m.VERSION_STATE_READY}, 1, True),
        ({}, 0, False),
    ],
)
def test_readiness_is_that_of_the_version_that_would_serve(
    states: dict[int, m.VersionState.ValueType], default: int, ready: bool
) -> None:
    versions = [m.ModelVersion(version=number, state=state) for number, state in states.items()]
    assert convert.is_ready(m.Model(versions=versions, default_version=default)) is ready


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("prompt", "text_input"),
        ("generation.prompt", "text_input"),
        ("model", "model_name"),
        ("generation.model", "model_name"),
        ("sampling.top_p", "sampling_parameters.top_p"),
        ("generation.sampling.top_p", "sampling_parameters.top_p"),
        ("max_tokens", "sampling_parameters.max_tokens"),
        ("generation.stop[3]", "sampling_parameters.stop[3]"),
        ("stream", "stream"),
        ("", ""),
    ],
)
def test_errors_have_the_protocols_names(field: str, name: str) -> None:
    error = renamed(InvalidArgument(f"{field} is illegal: {field}", field=field))
    assert type(error) is InvalidArgument
    assert error.field == name
    assert error.message == f"{name} is illegal: {field}"


def test_a_message_that_does_not_begin_with_the_field_is_kept() -> None:
    error = ModelNotFound("there is no model x", field="model")
    assert renamed(error).message == "there is no model x"
    assert renamed(error).field == "model_name"
    assert error_body(error, 404) == {"error": "there is no model x"}
