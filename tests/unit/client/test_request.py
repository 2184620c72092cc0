"""Python arguments become requests; what cannot become one is named."""

from typing import Any

import pytest

from mlxmesh.generation.v1.generation_pb2 import Role
from mlxmesh_client.request import count_request, generate_request
from mlxmesh_shared.errors import InvalidArgument


def test_every_option_lands_in_its_field() -> None:
    request = generate_request(
        "pocket@2",
        {
            "prompt": "Hi",
            "max_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.25,
            "top_k": 7,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "presence_penalty": -1.0,
            "frequency_penalty": 2.0,
            "seed": 2**64 - 1,
            "logit_bias": {17: -100.0},
            "stop": ["a", "b"],
            "stop_token_ids": [1, 2],
            "ignore_eos": True,
            "request_id": "r-1",
        },
    )

    assert (request.model, request.prompt, request.max_tokens) == ("pocket@2", "Hi", 5)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 7)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.125, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-1.0, 2.0)
    assert (sampling.seed, dict(sampling.logit_bias)) == (2**64 - 1, {17: -100.0})
    assert (list(request.stop), list(request.stop_token_ids)) == (["a", "b"], [1, 2])
    assert (request.ignore_eos, request.request_id) == (True, "r-1")


def test_what_is_not_given_is_not_set() -> None:
    request = generate_request("pocket", {"prompt": "Hi"})

    assert not request.HasField("max_tokens")
    assert not request.HasField("sampling")


def test_zero_is_given_where_it_is_a_legal_value() -> None:
    request = generate_request("pocket", {"prompt": "Hi", "temperature": 0.0, "seed": 0})

    assert request.sampling.HasField("temperature")
    assert request.sampling.HasField("seed")


def test_turns_are_pairs_or_mappings() -> None:
    messages = [("system", "Be brief."), {"role": "user", "content": "Hi"}, ("assistant", "Yo")]

    chat = generate_request("pocket", {"messages": messages}).chat

    assert [turn.role for turn in chat.messages] == [
        Role.ROLE_SYSTEM,
        Role.ROLE_USER,
        Role.ROLE_ASSISTANT,
    ]
    assert [turn.content for turn in chat.messages] == ["Be brief.", "Hi", "Yo"]


def test_token_ids_are_an_input_too() -> None:
    assert list(generate_request("pocket", {"token_ids": [3, 4]}).tokens.token_ids) == [3, 4]


def test_counting_takes_the_same_inputs() -> None:
    request = count_request("pocket", {"messages": [("user", "Hi")]}, return_token_ids=True)

    assert request.chat.messages[0].content == "Hi"
    assert request.return_token_ids


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "input"),
        ({"prompt": "a", "messages": [("user", "b")]}, "input"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens"),
        ({"prompt": "a", "top_k": -1}, "sampling.top_k"),
        ({"prompt": "a", "seed": 2**64}, "sampling.seed"),
        ({"prompt": "a", "stop": [1]}, "stop"),
        ({"prompt": "a", "temprature": 1.0}, "temprature"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"token_ids": [-1]}, "token_ids"),
        ({"messages": [("user", "a"), ("judge", "b")]}, "chat.messages[1].role"),
        ({"messages": [{"role": "user"}]}, "chat.messages[0]"),
        ({"messages": [5]}, "chat.messages[0]"),
        ({"messages": [("user", 5)]}, "chat.messages[0].content"),
        ({"messages": ["user"]}, "chat.messages[0]"),
        ({"messages": [("user", "a", "b")]}, "chat.messages[0]"),
    ],
)
def test_an_argument_that_fits_nowhere_is_named(options: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        generate_request("pocket", options)

    assert caught.value.field == field


def test_an_error_never_quotes_the_prompt() -> None:
    with pytest.raises(InvalidArgument) as caught:
        generate_request("pocket", {"prompt": "secret \ud800"})

    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
