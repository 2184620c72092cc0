"""Sampling parameters: by JSON or by the request, as numbers or as texts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_gateway.kserve.sampling import (
    MAX_SAMPLING_BYTES,
    SamplingParameters,
    read_sampling,
)
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

EVERY = {
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": -0.5,
    "frequency_penalty": 1.5,
    "seed": 2**64 - 1,
    "priority": -7,
    "ignore_eos": True,
    "n": 1,
}


def read(parameters: object, **request: object) -> SamplingParameters:
    return read_sampling(json.dumps(parameters).encode(), request, refuse_unknown=True)[0]


def field_of(tensor: bytes) -> str:
    """The field that is illegal; that of the tensor if none is."""
    try:
        read_sampling(tensor, {}, refuse_unknown=False)
    except InvalidArgument as error:
        return error.field
    return "sampling_parameters"


def test_without_parameters_there_are_defaults() -> None:
    sampling, ignored = read_sampling(b"", {}, refuse_unknown=True)
    assert sampling == SamplingParameters()
    assert ignored == []


def test_numbers_may_be_texts() -> None:
    texts = {name: str(value) for name, value in EVERY.items()}
    assert read(EVERY) == read(texts)
    assert read({}, **texts) == read(EVERY)
    assert read(texts).model_dump(exclude_none=True) == EVERY


@pytest.mark.parametrize("digits", ["\u0661\u0662", "\uff11"])
@pytest.mark.parametrize("name", ["max_tokens", "temperature", "top_k", "seed", "priority"])
def test_digits_are_those_of_ascii(name: str, digits: str) -> None:
    assert field_of(json.dumps({name: digits}).encode()) == f"sampling_parameters.{name}"


def test_texts_and_lists() -> None:
    sampling = read({"stop": "END", "stop_token_ids": [1, "2"], "logit_bias": {"3": "-1.5"}})
    assert sampling.stop == ["END"]
    assert sampling.stop_token_ids == [1, 2]
    assert sampling.logit_bias == {"3": -1.5}
    assert read({"stop": ["a", "b"]}).stop == ["a", "b"]
    assert read({"adapter": "french"}).adapter == "french"


def test_constraints() -> None:
    assert read({"json_schema": {"type": "object", "title": "ü"}}).json_schema == (
        '{"type": "object", "title": "ü"}'
    )
    assert read({"json_schema": "{}"}).json_schema == "{}"
    assert read({"regex": "a+"}).regex == "a+"
    assert read({"grammar": "start: A"}).grammar == "start: A"
    assert read({"choice": ["a", "b"]}).choice == ["a", "b"]
    assert read({"json_object": "true"}).json_object is True


@pytest.mark.parametrize("every", [-1, "-1", 0])
def test_top_k_of_every_token(every: object) -> None:
    assert read({"top_k": every}).top_k == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 2**32),
        ("max_tokens", 1.5),
        ("max_tokens", "many"),
        ("max_tokens", True),
        ("max_tokens", [1]),
        ("temperature", "hot"),
        ("temperature", "nan"),
        ("temperature", "inf"),
        ("temperature", "9" * 41),
        ("top_p", {}),
        ("top_k", -2),
        ("seed", -1),
        ("seed", 2**64),
        ("ignore_eos", "perhaps"),
        ("ignore_eos", 1),
        ("stop", 5),
        ("stop", [5]),
        ("stop_token_ids", [-1]),
        ("logit_bias", [1]),
        ("priority", 2**31),
        ("request_id", 5),
        ("session_id", 5),
        ("json_schema", 5),
        ("json_schema", [{}]),
        ("regex", {}),
        ("grammar", 5),
        ("choice", "abcd"),
        ("choice", [5]),
        ("json_object", "perhaps"),
        ("json_object", {}),
    ],
)
def test_an_illegal_value_is_named_and_not_quoted(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read({name: value})
    assert raised.value.field.startswith(f"sampling_parameters.{name}")
    assert raised.value.message.startswith(f"sampling_parameters.{name}")
    if isinstance(value, str) and len(value) > 3:
        assert value not in raised.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("n", "2"),
        ("best_of", 3),
        ("logprobs", 5),
        ("logprobs", 0),
        ("guided_decoding", {"json": {}}),
        ("use_beam_search", True),
        ("skip_special_tokens", "false"),
        ("lora_name", "a"),
        ("structured_outputs", {"regex": "a"}),
        ("tools", []),
        ("tool_choice", "auto"),
        ("parallel_tool_calls", True),
        ("reasoning", {"enabled": True}),
        ("sequence_id", 7),
        ("stop_words", "x"),
    ],
)
def test_what_other_back_ends_have_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(FeatureNotSupported) as raised:
        read({name: value})
    assert raised.value.field == f"sampling_parameters.{name}"


@pytest.mark.parametrize(
    "harmless",
    [
        {"n": "1", "best_of": 1, "logprobs": None, "use_beam_search": False},
        {"skip_special_tokens": "True", "length_penalty": 1.0, "min_tokens": 0},
        {"sequence_id": 0, "sequence_start": False, "stop_words": "", "bad_words": ""},
    ],
)
def test_values_that_change_nothing_are_legal(harmless: dict[str, object]) -> None:
    read(harmless)


def test_a_name_that_nobody_knows() -> None:
    sampling, ignored = read_sampling(b'{"tempo": 1}', {"foo": "x"}, refuse_unknown=False)
    assert sampling.max_tokens is None
    assert ignored == ["tempo", "foo"]
    with pytest.raises(InvalidArgument, match="tempo") as raised:
        read({"tempo": 1})
    assert raised.value.field == "sampling_parameters.tempo"


def test_a_name_in_both_places() -> None:
    with pytest.raises(InvalidArgument, match="both have seed"):
        read({"seed": 1}, seed=1)


@pytest.mark.parametrize(
    "illegal",
    [
        b"[]",
        b"5",
        b"null",
        b'"text"',
        b"{",
        b"\xff",
        b'{"temperature": NaN}',
        b'{"stop": "\\ud800"}',
        b"[" * 50_000,
        b'{"stop": "' + b"x" * MAX_SAMPLING_BYTES + b'"}',
    ],
)
def test_a_tensor_that_is_no_object(illegal: bytes) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read_sampling(illegal, {}, refuse_unknown=False)
    assert raised.value.field == "sampling_parameters"


@given(st.binary(max_size=60))
def test_any_bytes_are_parameters_or_an_error(tensor: bytes) -> None:
    assert field_of(tensor).startswith("sampling_parameters")


@given(
    st.dictionaries(
        st.sampled_from(sorted(SamplingParameters.model_fields)),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.lists(st.integers() | st.text(), max_size=3),
        max_size=4,
    )
)
def test_any_values_are_parameters_or_an_error(parameters: dict[str, object]) -> None:
    assert field_of(json.dumps(parameters).encode()).startswith("sampling_parameters")
