"""Images through the whole mesh, by every edge, compared with mlx-vlm alone."""

from __future__ import annotations

import base64
import io
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pytest
from PIL import Image

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh
from tests.fakes.tiny_vlm import write_qwen2_vl
from tests.fakes.vlm_alone import VlmAlone

MODEL = "tiny-vlm"
MAX_TOKENS = 32
MANY_TOKENS = 400


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen2_vl(tmp_path_factory.mktemp("models") / MODEL)


@pytest.fixture(scope="module")
def alone(directory: Path) -> VlmAlone:
    return VlmAlone(directory)


@pytest.fixture(scope="module")
def mesh(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    models = ("--model", str(directory), "--model", "pocket-mini")
    running = start_mesh(tmp_path_factory.mktemp("mesh"), *models, "--replicas", "2")
    yield running
    stop_mesh(running)


@pytest.fixture
async def stub(mesh: RunningMesh) -> AsyncIterator[GenerationServiceStub]:
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        yield GenerationServiceStub(channel)


@pytest.fixture
async def http(mesh: RunningMesh) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"http://{mesh.http}", timeout=60) as client:
        yield client


def picture(seed: int, width: int = 64, height: int = 40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def generation(*parts: str | bytes, model: str = MODEL, **options: Any) -> g.GenerateRequest:
    content = [
        g.ContentPart(text=part)
        if isinstance(part, str)
        else g.ContentPart(image=g.Image(data=part))
        for part in parts
    ]
    chat = g.ChatInput(messages=[g.ChatMessage(role=g.ROLE_USER, parts=content)])
    options = {"max_tokens": MAX_TOKENS, "ignore_eos": True} | options
    return g.GenerateRequest(model=model, chat=chat, **options)


def expected(
    alone: VlmAlone, *parts: str | bytes, max_tokens: int = MAX_TOKENS
) -> tuple[list[int], int]:
    """The tokens that mlx-vlm generates, and how many its prompt has."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in parts
    ]
    pictures = [Image.open(io.BytesIO(part)) for part in parts if isinstance(part, bytes)]
    inputs = alone.chat([{"role": "user", "content": content}], pictures)
    return alone.greedy(inputs, max_tokens), inputs.tokens


CONVERSATIONS: list[tuple[str | bytes, ...]] = [
    ("what is this? ", picture(1)),
    (picture(2, 30, 64), "and", picture(3), " differ"),
    ("no image",),
]


@pytest.mark.parametrize("parts", CONVERSATIONS)
async def test_as_mlx_vlm_alone(
    stub: GenerationServiceStub, alone: VlmAlone, parts: tuple[str | bytes, ...]
) -> None:
    tokens, prompt_tokens = expected(alone, *parts)
    for _ in range(2):  # the second time from the prefix cache
        done = await stub.Complete(g.CompleteRequest(generation=generation(*parts)))
        assert list(done.token_ids) == tokens
        assert done.started.prompt_tokens == done.finished.usage.prompt_tokens == prompt_tokens


async def test_several_outputs_share_their_images(
    stub: GenerationServiceStub, alone: VlmAlone
) -> None:
    tokens, _ = expected(alone, *CONVERSATIONS[1])
    done = await stub.Complete(g.CompleteRequest(generation=generation(*CONVERSATIONS[1], n=3)))
    assert [list(each.token_ids) for each in (done, *done.other_outputs)] == [tokens] * 3


async def test_survives_the_death_of_its_engine(
    stub: GenerationServiceStub, alone: VlmAlone, mesh: RunningMesh
) -> None:
    parts = CONVERSATIONS[0]
    tokens, _ = expected(alone, *parts, max_tokens=MANY_TOKENS)
    engines = {
        row["instance_id"]: row["pid"]
        for row in mesh.status()["instances"]
        if row["service"] == "engine"
    }
    received: list[int] = []
    resumptions = pid = 0
    async for message in stub.Generate(generation(*parts, max_tokens=MANY_TOKENS)):
        if message.HasField("started"):
            pid = engines[message.started.engine_id]
        received += message.delta.token_ids
        if received and pid:
            os.kill(pid, signal.SIGKILL)
            pid = 0
        resumptions = message.finished.timings.resumptions or resumptions
    assert received == tokens
    assert resumptions == 1


async def test_openai(http: httpx2.AsyncClient, alone: VlmAlone) -> None:
    parts = CONVERSATIONS[0]
    text = alone.text(expected(alone, *parts)[0])
    image = {"type": "image_url", "image_url": {"url": data_url(picture(1)), "detail": "low"}}
    content = [{"type": "text", "text": parts[0]}, image]
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": MAX_TOKENS,
        "ignore_eos": True,
        "temperature": 0,
    }
    answer = (await http.post("/v1/chat/completions", json=body)).json()
    assert answer["choices"][0]["message"]["content"] == text

    items = [
        {"type": "input_text", "text": parts[0]},
        {"type": "input_image", "image_url": data_url(picture(1)), "detail": "auto"},
    ]
    body = {
        "model": MODEL,
        "input": [{"role": "user", "content": items}],
        "max_output_tokens": MAX_TOKENS,
        "ignore_eos": True,
        "temperature": 0,
    }
    response = (await http.post("/v1/responses", json=body)).json()
    assert response["output"][0]["content"][0]["text"] == text
    listed = (await http.get(f"/v1/responses/{response['id']}/input_items")).json()
    assert listed["data"][0]["content"] == items


async def test_anthropic(http: httpx2.AsyncClient, alone: VlmAlone) -> None:
    text = alone.text(expected(alone, *CONVERSATIONS[0])[0])
    data = base64.b64encode(picture(1)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    content = [{"type": "text", "text": "what is this? "}, {"type": "image", "source": source}]
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    headers = {"anthropic-version": "2023-06-01"}
    answer = (await http.post("/v1/messages", json=body, headers=headers)).json()
    assert "content" in answer, answer
    assert text.startswith(answer["content"][0]["text"])
    assert answer["content"][0]["text"]


@pytest.mark.parametrize(
    ("parts", "reason", "field"),
    [
        ((b"GIF89a",), "IMAGE_INVALID", "chat.messages[0].parts[0].image"),
        (("a", picture(1)[:-200]), "IMAGE_INVALID", "chat.messages[0].parts[1].image"),
        ((picture(1),) * 17, "IMAGE_INVALID", "chat.messages[0].parts[16].image"),
        (
            (bytes(20_000_000), bytes(20_000_000)),
            "IMAGE_INVALID",
            "chat.messages[0].parts[1].image",
        ),
    ],
)
async def test_refused(
    stub: GenerationServiceStub, parts: tuple[str | bytes, ...], reason: str, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Complete(g.CompleteRequest(generation=generation(*parts)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")
    metadata = dict(caught.value.trailing_metadata() or ())
    assert reason in str(metadata["grpc-status-details-bin"])


async def test_a_model_without_eyes(stub: GenerationServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="reads no images"):
        await stub.Complete(
            g.CompleteRequest(generation=generation(picture(1), model="pocket-mini"))
        )
