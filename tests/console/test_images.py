"""Images in chats: attaching, limits, sending, keeping, and models that read none."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.async_api import FilePayload, Locator, expect

from tests.console.accessibility import assert_accessible
from tests.console.chatting import ChatPage
from tests.console.conftest import OpenVisit
from tests.console.meshes import ConsoleMesh
from tests.e2e.running_mesh import start_mesh, stop_mesh
from tests.fakes.tiny_vlm import write_qwen2_vl

MODEL = "tiny-vlm"
GIVE_FILE = """
([kind, name, data]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name, { type: 'image/png' }));
  const options = { bubbles: true, cancelable: true };
  const event = kind === 'paste'
    ? new ClipboardEvent('paste', { ...options, clipboardData: files })
    : new DragEvent('drop', { ...options, dataTransfer: files });
  document.querySelector(kind === 'paste' ? '#composer' : 'main').dispatchEvent(event);
}
"""
"""Pastes or drops a file."""


@pytest.fixture(scope="module")
def mesh(built_console: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleMesh]:
    """A mesh with a model that reads images, and one that reads none."""
    directory = write_qwen2_vl(tmp_path_factory.mktemp("models") / MODEL)
    models = ("--model", str(directory), "--model", "pocket-mini")
    running = start_mesh(tmp_path_factory.mktemp("images"), *models)
    yield ConsoleMesh(running)
    stop_mesh(running)


def picture(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 40), color).save(file, "PNG")
    return file.getvalue()


async def give(chat: ChatPage, kind: str, name: str, image: bytes) -> None:
    await chat.page.evaluate(GIVE_FILE, [kind, name, base64.b64encode(image).decode()])


async def assert_drawn(image: Locator) -> None:
    await expect(image).to_have_js_property("naturalWidth", 64)


async def test_images_from_their_files_to_the_answer_and_back(
    mesh: ConsoleMesh, visit: OpenVisit
) -> None:
    page = (await visit(mesh.url)).page
    chat = ChatPage(page)
    attach = page.get_by_role("button", name="Attach images")
    attached = page.get_by_role("list", name="Attached images")
    send = page.get_by_role("button", name="Send", exact=True)

    await chat.open("pocket-mini")
    await expect(attach).to_have_count(0)
    await give(chat, "drop", "red.png", picture("red"))
    await expect(page.get_by_role("alert")).to_have_text(
        "The model reads no images: choose one of the kind vision."
    )

    await chat.open(MODEL)
    async with page.expect_file_chooser() as choosing:
        await attach.press("Enter")
    red = FilePayload(name="red.png", mimeType="image/png", buffer=picture("red"))
    text = FilePayload(name="text.png", mimeType="image/png", buffer=b"no picture")
    await (await choosing.value).set_files([red, text])
    await expect(page.get_by_role("alert")).to_have_text(
        "text.png: it is no PNG, JPEG, WebP or GIF image."
    )
    await give(chat, "paste", "green.png", picture("green"))
    await give(chat, "drop", "blue.png", picture("blue"))
    await expect(attached.get_by_role("img")).to_have_count(3)
    await assert_drawn(attached.get_by_role("img", name="blue.png"))
    await assert_accessible(page)
    await page.get_by_role("button", name="Remove green.png").press("Enter")
    await expect(attached.get_by_role("img")).to_have_count(2)
    await expect(chat.composer).to_be_focused()

    model = page.get_by_label("Model", exact=True)
    await model.select_option("pocket-mini")
    await expect(page.get_by_text("pocket-mini reads no images: remove them")).to_be_visible()
    await expect(send).to_be_disabled()
    await model.select_option(MODEL)

    async with page.expect_request("**/*.GenerationService/Generate") as asking:
        await chat.send("What are these?")
    sent = (await asking.value).post_data_buffer
    assert sent is not None
    assert base64.b64encode(picture("red")) in sent
    assert base64.b64encode(picture("green")) not in sent
    await chat.finished()
    await expect(attached).to_have_count(0)
    images = chat.asked().last.get_by_role("img")
    await expect(images).to_have_count(2)

    await page.reload()
    await assert_drawn(images.first)
    await chat.asked().last.hover()
    await chat.asked().last.get_by_role("button", name="Edit your message").click()
    await page.get_by_label("Edit your message").fill("And these?")
    await page.get_by_role("button", name="Send again").click()
    await expect(chat.asked().last).to_contain_text("And these?")
    await expect(images).to_have_count(2)
    await chat.finished()
    await assert_accessible(page)

    await model.select_option("pocket-mini")
    await chat.composer.fill("And now?")
    await expect(page.get_by_text("and this conversation has some")).to_be_visible()
    await expect(send).to_be_disabled()


async def test_both_models_of_a_comparison_get_the_images(
    mesh: ConsoleMesh, visit: OpenVisit
) -> None:
    page = (await visit(mesh.url)).page
    chat = ChatPage(page)
    await chat.open(MODEL)
    await page.get_by_role("button", name="Compare two models").click()
    await expect(page.get_by_role("button", name="Attach images")).to_have_count(0)
    await page.get_by_label("Second model", exact=True).select_option(MODEL)
    await expect(page.get_by_role("button", name="Attach images")).to_be_visible()
    await give(chat, "paste", "red.png", picture("red"))
    await chat.send("What is this?")
    for lane in (0, 1):
        await chat.finished(lane)
        await assert_drawn(chat.asked(lane).get_by_role("img", name="red.png"))
