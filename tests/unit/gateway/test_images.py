"""Images at the HTTP edges: parts in order, as the contract has them."""

from typing import Any

import pytest

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.anthropic.schema import MessageRequest
from mlxmesh_gateway.anthropic.turns.convert import chat_input
from mlxmesh_gateway.http.schema import read_request
from mlxmesh_gateway.openai.chat_convert import chat_generation
from mlxmesh_gateway.openai.chat_schema import ChatRequest
from mlxmesh_gateway.openai.responses.input import input_items, input_messages
from mlxmesh_gateway.openai.responses.schema import Item
from mlxmesh_shared.errors import InvalidArgument

URL = "data:image/png;base64,aW1n"
IMAGE = {"type": "image_url", "image_url": {"url": URL, "detail": "high"}}
SOURCE = {"type": "base64", "media_type": "image/png", "data": "aW1n"}


def parts_of(message: pb.ChatMessage) -> list[str | bytes]:
    return [part.image.url or part.image.data or part.text for part in message.parts]


def openai(*content: Any) -> pb.ChatMessage:
    body = {"model": "m", "messages": [{"role": "user", "content": list(content)}]}
    (message,) = chat_generation(read_request(ChatRequest, body)[0]).chat.messages
    return message


def anthropic(*messages: dict[str, Any]) -> list[pb.ChatMessage]:
    body = {"model": "m", "max_tokens": 1, "messages": list(messages)}
    return list(chat_input(read_request(MessageRequest, body)[0]).messages)


def test_openais_parts_keep_their_order() -> None:
    message = openai({"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"})
    assert parts_of(message) == ["a", URL, "b"]
    assert not message.content


def test_a_url_may_be_a_text() -> None:
    assert parts_of(openai({"type": "image_url", "image_url": URL})) == [URL]


def test_texts_alone_are_a_content() -> None:
    message = openai({"type": "text", "text": "a"}, {"type": "text", "text": "b"})
    assert (message.content, list(message.parts)) == ("ab", [])


def test_a_part_is_one_of_both() -> None:
    with pytest.raises(InvalidArgument, match=r"messages\.0\.content\.0 must"):
        openai({**IMAGE, "text": "a"})


def test_images_of_a_response_are_listed_as_they_came() -> None:
    content = [
        {"type": "input_text", "text": "a"},
        {"type": "input_image", "image_url": URL, "detail": "auto"},
    ]
    item = Item.model_validate({"role": "user", "content": content})
    (message,) = input_messages([item])
    assert parts_of(message) == ["a", URL]
    (listed,) = input_items([message], "resp_1")
    assert listed["content"] == content


def test_anthropics_blocks_keep_their_order() -> None:
    image = {"type": "image", "source": SOURCE}
    texts = [{"type": "text", "text": text} for text in "abc"]
    (message,) = anthropic({"role": "user", "content": [texts[0], texts[1], image, texts[2]]})
    assert parts_of(message) == ["a", "\n\n", "b", b"img", "c"]


def test_neighbours_with_images_are_joined() -> None:
    image = {"type": "image", "source": SOURCE}
    (message,) = anthropic(
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, image]},
        {"role": "user", "content": "c"},
    )
    assert parts_of(message) == ["a", "\n\n", "b", b"img", "c"]
    assert not message.content


@pytest.mark.parametrize("data", ["a", "?", "aW 1n"])
def test_what_is_not_base64_is_named(data: str) -> None:
    source = {**SOURCE, "data": data}
    with pytest.raises(InvalidArgument) as caught:
        anthropic({"role": "user", "content": [{"type": "image", "source": source}]})
    assert caught.value.field == "messages.0.content.0.source.data"
