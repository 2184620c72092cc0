"""Images of conversations: their limits, their templates and their places in prompts."""

from typing import Any

import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_generation import convert, convert_image
from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import Chat, ChatTurn, Image, PlacedImage
from mlxmesh_generation.placement import convert as engine_convert
from mlxmesh_generation.placement.sequence import SequenceRequest
from mlxmesh_generation.streams.plan import Plan, name_callers_field
from mlxmesh_generation.text import template_source
from mlxmesh_generation.text.conversation import conversation
from mlxmesh_shared.errors import ImageInvalid, InvalidArgument

PATH = "chat.messages[0].parts[{}].image"
LOOP = "{% for line in message['content'] %}{% endfor %}"


def request(*images: g.Image, text: str = "") -> g.GenerateRequest:
    parts = [g.ContentPart(image=image) for image in images]
    if text:
        parts.append(g.ContentPart(text=text))
    message = g.ChatMessage(role=g.ROLE_USER, parts=parts)
    return g.GenerateRequest(model="m", chat=g.ChatInput(messages=[message]))


def chat_of(*images: g.Image, text: str = "") -> Chat:
    source = convert.prompt_input(request(*images, text=text))
    assert isinstance(source, Chat)
    return source


def test_bytes_and_data_urls() -> None:
    urls = "data:image/png;base64,aW1n", "DATA:IMAGE/PNG;BASE64,aW1n", "data:;base64,aW1n"
    chat = chat_of(g.Image(data=b"img"), *(g.Image(url=url) for url in urls), text="what?")
    assert [image.data for image in chat.images] == [b"img"] * 4
    assert [image.path for image in chat.images] == [PATH.format(at) for at in range(4)]
    (turn,) = chat.turns
    assert (turn.content, turn.parts[-1]) == ("what?", "what?")


@pytest.mark.parametrize(
    "url",
    ["https://a.example/b.png", "http://127.0.0.1/", "file:///etc/passwd", "ftp://a/b", "b.png"],
)
def test_addresses_are_not_fetched(url: str) -> None:
    with pytest.raises(InvalidArgument, match="addresses are not fetched") as caught:
        chat_of(g.Image(url=url))
    assert caught.value.field == PATH.format(0) + ".url"


@pytest.mark.parametrize("url", ["data:image/png,abc", "data:text/html;base64,aW1n", "data:"])
def test_other_data_urls(url: str) -> None:
    with pytest.raises(InvalidArgument, match="must begin like"):
        chat_of(g.Image(url=url))


@pytest.mark.parametrize("text", ["a", "aW1n\n", "aW 1n", "????"])
def test_broken_base64(text: str) -> None:
    with pytest.raises(ImageInvalid, match="not base64"):
        chat_of(g.Image(url=f"data:image/png;base64,{text}"))


def test_no_bytes() -> None:
    with pytest.raises(ImageInvalid, match="empty"):
        chat_of(g.Image(url="data:image/png;base64,"))


def test_the_number_of_images() -> None:
    assert len(chat_of(*[g.Image(data=b"x")] * 16).images) == 16
    with pytest.raises(ImageInvalid, match="at most 16") as caught:
        chat_of(*[g.Image(data=b"x")] * 17)
    assert caught.value.field == PATH.format(16)


def test_the_bytes_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_image, "MAX_IMAGE_BYTES", 10)
    monkeypatch.setattr(convert_image, "MAX_BYTES", 15)
    assert chat_of(g.Image(data=bytes(10)), g.Image(data=bytes(5))).images
    with pytest.raises(ImageInvalid, match="the limit is 10"):
        chat_of(g.Image(data=bytes(11)))
    with pytest.raises(ImageInvalid, match="at most 15"):
        chat_of(g.Image(data=bytes(10)), g.Image(data=bytes(6)))


@pytest.mark.parametrize(
    ("source", "needs"),
    [
        (LOOP, True),
        ("{%- for part in message.content -%}", True),
        ("{% if message.content is string %}{% else %}" + LOOP, False),
        ("{{ message['content'] }}", False),
        ("{% for message in messages %}{{ message.content }}{% endfor %}", False),
    ],
)
def test_templates_that_need_parts(source: str, needs: bool) -> None:
    assert template_source.needs_parts(source) is needs


def test_a_template_gets_parts() -> None:
    image = Image(b"img")
    turns = ChatTurn("system", "be brief"), ChatTurn("user", "what?", parts=(image, "what?"))
    parts = [{"type": "image"}, {"type": "text", "text": "what?"}]

    def contents(source: str) -> list[Any]:
        return [each["content"] for each in conversation(Chat(turns), source)["messages"]]

    assert contents("") == ["be brief", parts]
    assert contents(LOOP) == [[{"type": "text", "text": "be brief"}], parts]


def test_engines_get_the_files_and_their_places() -> None:
    asked = convert.generation_request(request(g.Image(data=b"img")))
    placed = PlacedImage(Image(b"img"), 1)
    sequence = SequenceRequest(asked, [5, 9, 6], 8, 0, images=(placed,))
    (image,) = engine_convert.submit(sequence, 1).images
    assert (image.data, image.position) == (b"img", 1)


def test_an_engines_error_names_the_callers_field() -> None:
    asked = convert.generation_request(request(g.Image(data=b"img")))
    assert isinstance(asked.input, Chat)
    plan = Plan(
        asked,
        ModelVersion("m", 1, "d", 100, 100, 1),
        [5, 9, 6],
        8,
        seed=0,
        received_s=0.0,
        deadline_s=None,
        images=tuple(PlacedImage(image, 1) for image in asked.input.images),
    )
    error = name_callers_field(ImageInvalid("images[0]: cut off", field="images[0]"), plan)
    assert (error.field, error.message) == (PATH.format(0), PATH.format(0) + ": cut off")
    assert plan.prompt_tokens == 3
    plan.expanded.tokens = 70
    assert plan.prompt_tokens == 70
