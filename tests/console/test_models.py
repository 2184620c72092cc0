"""The pages of models, of the search of a hub, and of downloads, with a hub on loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Locator, Page, expect

from mlxmesh_client import MeshClient
from tests.console.accessibility import assert_accessible
from tests.console.chatting import ChatPage
from tests.console.conftest import OpenVisit
from tests.console.meshes import ROOT, ConsoleMesh
from tests.e2e.running_mesh import start_mesh, stop_mesh
from tests.fakes.hub import FakeHub, serving_hub
from tests.fakes.lora_adapters import random_layers, write_peft
from tests.fakes.model_directory import CONFIG, write_model

POCKET = ROOT / "deploy" / "demo-model" / "pocket"
REPO_ID = "mlx-community/Pocket-4bit"
OTHER = "mlx-community/Other"
LOAD_MS = 90_000


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    with serving_hub() as hub:
        hub.add(REPO_ID, POCKET)
        hub.add(OTHER, write_model(tmp_path_factory.mktemp("other") / "other", rows=2**17))
        hub.models["mlx-community/Whisper-tiny"] = {
            "config.json": json.dumps({**CONFIG, "model_type": "whisper"}).encode(),
            "model.safetensors": hub.models[REPO_ID]["model.safetensors"],
        }
        hub.models["them/Pocket-GGUF"] = {
            "pocket.Q8_0.gguf": bytes(4096),
            "pocket.Q4_K_M.gguf": bytes(2048),
        }
        hub.told["them/Pocket-GGUF"] = {"tags": ["gguf"], "gguf": {"architecture": "llama"}}
        yield hub


@pytest.fixture(scope="module")
def mesh(
    hub: FakeHub, built_console: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleMesh]:
    environment = {"MLXMESH_MODEL_HUB_ENDPOINT": hub.endpoint}
    running = start_mesh(tmp_path_factory.mktemp("hub"), env=environment)
    # The first search of a model service imports the library of hubs.
    searched = running.command("models", "search", "nothing")
    assert searched.returncode == 0, searched.stderr
    yield ConsoleMesh(running)
    stop_mesh(running)


@pytest_asyncio.fixture(loop_scope="session")
async def page(mesh: ConsoleMesh, visit: OpenVisit) -> Page:
    opened = await visit(mesh.url)
    opened.allow(r"status of 400")  # the browser's own line about a call that was refused
    return opened.page


async def go(page: Page, path: str) -> None:
    """Opens a page of the console and waits until it is there."""
    await page.goto(path)
    await expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=LOAD_MS)


def toast(page: Page, text: str) -> Locator:
    return page.get_by_text(text)


async def search(page: Page, text: str) -> None:
    await go(page, "/models/hub")
    await page.get_by_label("Name").fill(text)


async def test_a_download_is_paused_resumed_loaded_and_answers(
    page: Page, mesh: ConsoleMesh, hub: FakeHub
) -> None:
    await search(page, "pocket-4")
    card = page.get_by_role("article", name=REPO_ID)
    await expect(card.get_by_text("fits now")).to_be_visible()
    await expect(card.get_by_text("apache-2.0")).to_be_visible()
    await card.get_by_role("button", name=f"Show and download {REPO_ID}").click()
    dialog = page.get_by_role("dialog", name=REPO_ID)
    await dialog.get_by_label("Name in this mesh").fill("fetched")
    hub.gate.clear()
    await dialog.get_by_role("button", name="Download safetensors files").click()

    await expect(page.get_by_role("heading", level=1, name="Downloads")).to_be_visible()
    row = page.get_by_role("listitem", name=REPO_ID)
    await expect(row.get_by_text("downloading")).to_be_visible()
    bar = row.get_by_role("progressbar")
    half = len(hub.models[REPO_ID]["model.safetensors"]) // 4
    await expect(bar).to_have_attribute("value", _at_least(half))
    await assert_accessible(page)
    await row.get_by_role("button", name="Pause").click()
    await expect(row.get_by_text("paused", exact=True)).to_be_visible()
    await expect(toast(page, f"{REPO_ID} is paused.")).to_be_visible()
    hub.gate.set()
    await row.get_by_role("button", name="Resume").click()
    await expect(row.get_by_text("completed")).to_be_visible()

    await row.get_by_role("link", name="fetched@1").click()
    version = page.get_by_role("listitem", name="fetched@1")
    await expect(version.get_by_text("ready", exact=True)).to_be_visible(timeout=LOAD_MS)
    async with MeshClient(mesh.mesh.address) as client:
        answer = await client.complete("fetched", prompt="Hi", max_tokens=3)
    assert answer.text
    await expect(page.get_by_role("link", name="Chat with it")).to_have_attribute(
        "href", "/chat?model=fetched"
    )


def _at_least(number: int) -> re.Pattern[str]:
    """A pattern of decimal numbers with as many digits, or more."""
    return re.compile(rf"^\d{{{len(str(number))},}}$")


async def test_cancelling_asks_first_and_removes_the_download(page: Page, hub: FakeHub) -> None:
    hub.gate.clear()
    await search(page, "other")
    await page.get_by_role("button", name=f"Show and download {OTHER}").click()
    dialog = page.get_by_role("dialog", name=OTHER)
    await dialog.get_by_role("button", name="Download safetensors files").click()
    row = page.get_by_role("listitem", name=OTHER)
    await row.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="Cancel the download").click()
    await expect(toast(page, f"{OTHER} is cancelled.")).to_be_visible()
    await expect(row).to_have_count(0)
    hub.gate.set()


async def test_models_are_loaded_pinned_aliased_and_unloaded(
    page: Page, mesh: ConsoleMesh, tmp_path: Path
) -> None:
    await go(page, "/models")
    await page.get_by_role("button", name="Add a model").click()
    dialog = page.get_by_role("dialog", name="Add a model")
    await dialog.get_by_label("Name").fill("here")
    await dialog.get_by_role("textbox", name="Directory").fill("nowhere")
    await dialog.get_by_role("button", name="Add", exact=True).click()
    await expect(dialog.get_by_text("must be absolute")).to_be_visible()
    await dialog.get_by_role("textbox", name="Directory").fill(str(POCKET))
    await dialog.get_by_role("button", name="Add", exact=True).click()
    await expect(dialog).to_have_count(0)
    await page.get_by_role("link", name="here").click()

    version = page.get_by_role("listitem", name="here@1")
    await version.get_by_role("button", name="Load here@1").click()
    await page.get_by_role("dialog", name="Load here@1").get_by_role("button", name="Load").click()
    await expect(toast(page, "here@1 is loaded.")).to_be_visible(timeout=LOAD_MS)
    await expect(version.get_by_text("ready", exact=True)).to_be_visible()

    await page.get_by_role("button", name="Pin").click()
    await expect(page.get_by_role("button", name="Unpin")).to_be_visible()
    await page.get_by_role("tab", name="Aliases").click()
    await page.get_by_label("Alias", exact=True).fill("stable")
    await page.get_by_role("button", name="Set alias").click()
    await expect(
        page.get_by_role("list", name="Aliases").get_by_text("here:stable")
    ).to_be_visible()
    await page.get_by_role("button", name="Remove the alias stable").click()
    await expect(page.get_by_text("No aliases")).to_be_visible()

    await page.get_by_role("tab", name="Policy and price").click()
    await page.get_by_label("Fewest replicas").fill("3")
    await page.get_by_label("Most replicas").fill("2")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("min_replicas").first).to_be_visible()

    await page.get_by_role("tab", name="Versions").click()
    await version.get_by_role("button", name="Unload here@1").click()
    await expect(version.get_by_text("available", exact=True)).to_be_visible()
    await version.get_by_role("button", name="Delete here@1").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("There is no model here")).to_be_visible()


async def test_adapters_are_added_chosen_in_a_conversation_and_removed(
    page: Page, tmp_path: Path
) -> None:
    shapes = {"model.layers.0.self_attn.q_proj": (160, 160)}
    fits = write_peft(tmp_path / "french", random_layers(shapes))
    wrong = write_peft(tmp_path / "wrong", random_layers({next(iter(shapes)): (160, 80)}))
    await go(page, "/models/catalogue/pocket")
    await page.get_by_role("tab", name="Adapters").click()
    await expect(page.get_by_text("No adapters")).to_be_visible()
    form = page.get_by_role("form", name="Add an adapter")
    await form.get_by_label("Name", exact=True).fill("french")
    await form.get_by_role("textbox", name="Directory").fill(str(wrong))
    await form.get_by_role("button", name="Add adapter").click()
    await expect(form.get_by_text("is the adapter of another model?").first).to_be_visible()
    await form.get_by_role("textbox", name="Directory").fill(str(fits))
    await form.get_by_role("button", name="Add adapter").click()
    await expect(toast(page, "pocket:french was added.")).to_be_visible()
    listed = page.get_by_role("list", name="Adapters")
    await expect(listed.get_by_text("PEFT, rank 4")).to_be_visible()
    await assert_accessible(page)

    await listed.get_by_role("link", name="Chat with it").click()
    chat = ChatPage(page)
    await chat.show_settings()
    model, adapter = (page.get_by_label(name, exact=True) for name in ("Model", "Adapter"))
    await expect(model).to_have_value("pocket:french")
    await expect(adapter).to_have_value("french")
    await adapter.select_option("")
    await expect(model).to_have_value("pocket")
    await adapter.select_option("french")
    await chat.send("Hello")
    await chat.finished()

    await go(page, "/models/catalogue/pocket")
    await page.get_by_role("tab", name="Adapters").click()
    await page.get_by_role("button", name="Remove the adapter french").click()
    await page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    await expect(page.get_by_text("No adapters")).to_be_visible()


async def test_what_happens_elsewhere_is_shown_at_once(page: Page, mesh: ConsoleMesh) -> None:
    await go(page, "/models")
    table = page.get_by_role("table", name="Models")
    await expect(table.get_by_role("link", name="pocket", exact=True)).to_be_visible()
    async with MeshClient(mesh.mesh.address) as client:
        await client.register_model(name="elsewhere", directory=str(POCKET))
        row = table.get_by_role("row", name="elsewhere")
        await expect(row.get_by_text("available")).to_be_visible()
        await client.delete_model("elsewhere")
        await expect(row).to_have_count(0)


async def test_what_cannot_be_served_says_why_and_offers_no_download(page: Page) -> None:
    await search(page, "whisper")
    await expect(page.get_by_role("article").get_by_text("cannot be served")).to_be_visible()
    await page.get_by_role("button", name="Show and download mlx-community/Whisper-tiny").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_text("engines cannot load the architecture whisper")).to_be_visible()
    await expect(dialog.get_by_role("button", name="Download")).to_have_count(0)


async def test_gguf_files_are_choices(page: Page) -> None:
    await go(page, "/models/hub")
    await page.get_by_label("Format").select_option("With GGUF files")
    await page.get_by_role("button", name="Show and download them/Pocket-GGUF").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("button", name="Download pocket.Q8_0.gguf")).to_be_visible()
    await expect(dialog.get_by_text("Q4_K_M cannot be converted without loss")).to_be_visible()
    await assert_accessible(page)


async def test_a_download_that_fails_says_why_and_can_be_resumed(page: Page, hub: FakeHub) -> None:
    await go(page, "/models/hub")
    await page.get_by_label("Format").select_option("With GGUF files")
    await page.get_by_role("button", name="Show and download them/Pocket-GGUF").click()
    await page.get_by_role("button", name="Download pocket.Q8_0.gguf").click()
    row = page.get_by_role("listitem", name="them/Pocket-GGUF/pocket.Q8_0.gguf")
    await expect(row.get_by_text("failed", exact=True)).to_be_visible(timeout=LOAD_MS)
    await expect(row.get_by_role("button", name="Resume")).to_be_visible()
    await row.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="Cancel the download").click()
    await expect(row).to_have_count(0)


async def test_a_hub_that_is_away_says_what_to_do(
    mesh: ConsoleMesh, visit: OpenVisit, hub: FakeHub
) -> None:
    opened = await visit(mesh.url)
    opened.allow(r"status of 503")
    hub.api_status = 503
    try:
        await search(opened.page, "something new")
        await expect(opened.page.get_by_role("alert")).to_contain_text("cannot be reached")
        hub.api_status = 200
        await opened.page.get_by_role("button", name="Try again").click()
        await expect(opened.page.get_by_text("No model was found")).to_be_visible()
    finally:
        hub.api_status = 200


@pytest.mark.parametrize("path", ["/models", "/models/hub", "/models/catalogue/pocket"])
async def test_the_pages_are_accessible_and_fit_a_phone(page: Page, path: str) -> None:
    await page.set_viewport_size({"width": 360, "height": 740})
    await go(page, path)
    await expect(page.get_by_text("Loading")).to_have_count(0)
    await assert_accessible(page)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert await page.evaluate(wide) <= 0
