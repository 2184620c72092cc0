"""Counting an encoded message: what protobuf takes passes, and too much of anything does not."""

import random
import time

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlxmesh.engine.v1.engine_pb2 import ExecuteRequest
from mlxmesh.generation.v1.generation_pb2 import (
    ChatInput,
    ChatMessage,
    CompleteRequest,
    GenerateRequest,
    TokenInput,
)
from mlxmesh.telemetry.v1.events_pb2 import Event, PublishEventsRequest
from mlxmesh_shared.errors import InvalidArgument, MalformedMessage
from mlxmesh_shared.rules import WireLimits
from mlxmesh_shared.rules.wire import MAX_FIELDS, MAX_UNKNOWN_FIELDS

GENERATE: Descriptor = GenerateRequest.DESCRIPTOR
# Tags: field number and wire type. Chat is field 5 and tokens field 6, messages and ids field 1.
PADDING = b"\x12" + bytes([0x80, 0x10]) + bytes(2048)  # a prompt, so that nothing is too small


def varint(number: int) -> bytes:
    low = b""
    while number > 0x7F:
        low += bytes([number & 0x7F | 0x80])
        number >>= 7
    return low + bytes([number])


def nested(name: str, content: bytes, descriptor: Descriptor = GENERATE) -> bytes:
    number = descriptor.fields_by_name[name].number
    return varint(number << 3 | 2) + varint(len(content)) + content


def refusal(encoded: bytes, descriptor: Descriptor = GENERATE) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        WireLimits().check(descriptor, encoded)
    return caught.value


@pytest.mark.parametrize("count", [10_001, 8 * 2**20])
def test_a_list_is_counted_and_named(count: int) -> None:
    empties = nested("messages", b"", ChatInput.DESCRIPTOR) * count

    error = refusal(nested("chat", empties))

    assert error.field == "chat.messages"
    assert str(error) == "chat.messages must have at most 10000 elements"
    # And one level down.
    whole = nested("generation", nested("chat", empties), CompleteRequest.DESCRIPTOR)
    assert refusal(whole, CompleteRequest.DESCRIPTOR).field == "generation.chat.messages"


def test_the_count_costs_what_is_allowed_and_not_what_was_sent() -> None:
    def cost_s(count: int) -> float:
        empties = nested("chat", nested("messages", b"", ChatInput.DESCRIPTOR) * count)
        began_s = time.process_time()
        refusal(empties)
        return time.process_time() - began_s

    # 800 times as much in it: the old parse took 800 times as long.
    assert min(cost_s(8 * 2**20) for _ in range(3)) < 20 * min(cost_s(10_001) for _ in range(3))


def test_a_run_of_numbers_costs_no_more_than_is_allowed_either() -> None:
    number = GENERATE.fields_by_name["stop_token_ids"].number

    def cost_s(count: int) -> float:
        ids = bytes([number << 3, 1]) * count
        began_s = time.process_time()
        assert refusal(ids).field == "stop_token_ids"
        return time.process_time() - began_s

    # 240 times as much.
    assert min(cost_s(8 * 2**20) for _ in range(3)) < 20 * min(cost_s(35_000) for _ in range(3))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "one by one"])
def test_numbers_are_counted_however_they_are_sent(packed: bool) -> None:
    def tokens(count: int) -> bytes:
        noise = random.Random(1)
        ids = [noise.randrange(2**32) for _ in range(count)]
        if packed:
            return TokenInput(token_ids=ids).SerializeToString()
        return b"".join(b"\x08" + varint(each) for each in ids)

    WireLimits().check(GENERATE, nested("tokens", tokens(1_000_000)))

    error = refusal(nested("tokens", tokens(1_000_001)))
    assert error.field == "tokens.token_ids"


def test_a_map_is_counted() -> None:
    entry = b"\x4a\x00"  # field 9 of Sampling, logit_bias
    error = refusal(nested("sampling", entry * 5000))
    assert error.field == "sampling.logit_bias"


def test_unknown_fields_and_fields_that_are_set_again_and_again() -> None:
    WireLimits().check(GENERATE, PADDING + b"\xfa\x3f\x00" * MAX_UNKNOWN_FIELDS)
    assert "not in the contract" in str(
        refusal(PADDING + b"\xfa\x3f\x00" * (MAX_UNKNOWN_FIELDS + 1))
    )
    # No list, so that no rule says how often: a model, set to the empty text a million times.
    assert f"more than {MAX_FIELDS} fields" in str(refusal(b"\x0a\x00" * 1_000_000))


def test_messages_within_messages() -> None:
    # Lists within lists of OTLP, which has no rules of ours.
    value = b""
    for _ in range(90):
        inner = b"\x0a" + varint(len(value)) + value
        value = b"\x2a" + varint(len(inner)) + inner
    attribute = b"\x12" + varint(len(value)) + value
    resource = b"\x0a" + varint(len(attribute)) + attribute
    spans = b"\x0a" + varint(len(resource)) + resource
    encoded = b"\x0a" + varint(len(spans)) + spans
    encoded += b"\x0a\x00" * 1000

    with pytest.raises(MalformedMessage):
        WireLimits().check(ExportTraceServiceRequest.DESCRIPTOR, encoded)


def test_too_many_fields_that_are_in_no_list() -> None:
    events = PublishEventsRequest.DESCRIPTOR
    event: Descriptor = Event.DESCRIPTOR
    too_many = nested("config_changed", b"\x0a\x00" * MAX_FIELDS, event)
    error = refusal(nested("events", b"", events) * 3 + nested("events", too_many, events), events)
    assert str(error) == f"the message has more than {MAX_FIELDS} fields; send less at once"


@given(st.lists(st.text(max_size=40), max_size=40), st.lists(st.integers(0, 2**32 - 1)))
def test_what_protobuf_writes_passes(texts: list[str], ids: list[int]) -> None:
    chat = ChatInput(messages=[ChatMessage(content=text) for text in texts])
    request = GenerateRequest(model="m", chat=chat, stop=texts[:16], stop_token_ids=ids[:64])
    request.sampling.logit_bias.update(dict.fromkeys(ids, 1.5))
    limits = WireLimits()
    limits.check(GENERATE, request.SerializeToString() + PADDING)
    limits.check(ExecuteRequest.DESCRIPTOR, ExecuteRequest().SerializeToString())


@given(st.binary(min_size=1, max_size=60))
def test_noise_that_protobuf_refuses_is_refused_or_left_to_it(noise: bytes) -> None:
    encoded = PADDING + noise
    try:
        GenerateRequest.FromString(encoded)
        legal = True
    except DecodeError:
        legal = False
    try:
        WireLimits().check(GENERATE, encoded)
    except MalformedMessage:
        # Groups, which this contract has nowhere, are the one thing that protobuf takes.
        assert not legal or any(byte & 7 in (3, 4) for byte in noise)
    except InvalidArgument:
        pass
