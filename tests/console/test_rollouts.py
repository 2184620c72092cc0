"""The pages of rollouts, experiments and shadows, on a mesh with two versions of `pocket`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Page, expect

from mlxmesh_client import MeshClient
from tests.console.conftest import OpenVisit
from tests.console.meshes import ConsoleMesh

SESSIONS = 40
LOADED_MS = 90_000


pytestmark = pytest.mark.usefixtures("steps")


@asynccontextmanager
async def traffic(mesh: ConsoleMesh) -> AsyncIterator[None]:
    """Requests for `steps` of many sessions, one after another."""

    async def call() -> None:
        async with MeshClient(mesh.mesh.address) as client:
            for number in range(1_000_000):
                session_id = f"session-{number % SESSIONS}"
                await client.complete("steps", prompt="Hi", max_tokens=2, session_id=session_id)
                await asyncio.sleep(0.05)

    calling = asyncio.create_task(call())
    try:
        yield
    finally:
        calling.cancel()
        await asyncio.wait([calling])


async def start_rollout(page: Page, **fields: str) -> None:
    await page.goto("/rollouts")
    await page.get_by_role("button", name="New rollout").click()
    dialog = page.get_by_role("dialog", name="Start a rollout")
    await dialog.get_by_label("Model").select_option("steps")
    await dialog.get_by_label("New version").select_option(fields.pop("version"))
    for label, value in fields.items():
        await dialog.get_by_label(label.replace("_", " ")).fill(value)
    await dialog.get_by_role("button", name="Start rollout").click()


async def test_a_rollout_from_its_form_to_its_promotion(page: Page, open_mesh: ConsoleMesh) -> None:
    async with traffic(open_mesh):
        await start_rollout(page, version="2", Steps="50, 100", Hold="2s", Requests_at_least="3")
        await expect(page.get_by_role("heading", level=1, name="Rollout r-")).to_be_visible()
        bar = page.get_by_role("img", name="Version 2 gets 50%, version 1 gets 50%")
        await expect(bar).to_be_visible(timeout=LOADED_MS)
        guards = page.get_by_role("table", name="What the guards read in this step")
        await expect(guards.get_by_role("row", name="Error rate below 1%")).to_contain_text("0%")
        main = page.get_by_role("main")
        await expect(main.get_by_text("promoted").first).to_be_visible(timeout=60_000)
    await expect(page.get_by_role("img", name="Version 2 gets 100%")).to_be_visible()
    history = page.get_by_role("list", name="History, the newest change first")
    assert await history.get_by_role("listitem").count() >= 4
    await expect(page.get_by_role("button", name="Abort")).to_have_count(0)


async def test_pause_resume_and_abort(page: Page, open_mesh: ConsoleMesh) -> None:
    await start_rollout(page, version="1", Steps="10", Hold="1h")
    await page.get_by_role("button", name="Pause").click(timeout=LOADED_MS)
    await expect(page.get_by_text("The rollout is paused.")).to_be_visible()
    await expect(page.get_by_text("The weights stay as they are. This step")).to_be_visible()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("progressbar", name="Time of this step")).to_be_visible()
    await page.get_by_role("button", name="Abort", exact=True).click()
    dialog = page.get_by_role("dialog", name="Abort this rollout?")
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(dialog).to_be_hidden()
    await expect(page.get_by_role("button", name="Abort", exact=True)).to_be_focused()
    await page.keyboard.press("Enter")
    await dialog.get_by_role("button", name="Abort rollout").click()
    await expect(page.get_by_text("steps:default is version 2 again.")).to_be_visible()
    await page.get_by_role("link", name="All rollouts").click()
    await expect(page.get_by_role("row", name="steps:default 2 → 1 aborted")).to_be_visible()


async def test_refused_values_are_told_at_their_field(page: Page) -> None:
    await start_rollout(page, version="1", Steps="50, 10")
    dialog = page.get_by_role("dialog", name="Start a rollout")
    await expect(
        dialog.get_by_text("Each step must be larger than the one before.")
    ).to_be_visible()
    await expect(dialog.get_by_label("Steps")).to_have_attribute("aria-invalid", "true")


async def test_a_list_shows_what_others_start(page: Page, open_mesh: ConsoleMesh) -> None:
    await page.goto("/rollouts")
    await expect(page.get_by_role("table", name="Rollouts")).to_be_visible()
    start = ("rollout", "start", "steps", "--to", "1", "--hold", "1h", "--id", "by-command")
    open_mesh.command(*start)
    await expect(page.get_by_role("link", name="by-command")).to_be_visible()
    open_mesh.command("rollout", "abort", "by-command")
    await expect(page.get_by_role("row", name="by-command")).to_contain_text("aborted")


async def test_an_experiment_from_its_form_to_its_end(page: Page, open_mesh: ConsoleMesh) -> None:
    await page.goto("/experiments")
    await page.get_by_role("button", name="New experiment").click()
    dialog = page.get_by_role("dialog", name="Start an experiment")
    await dialog.get_by_label("Model").select_option("steps")
    await dialog.get_by_label("What it is for").fill("Is the second one faster?")
    await dialog.get_by_role("button", name="Start experiment").click()
    await expect(page.get_by_role("heading", level=1, name="Experiment e-")).to_be_visible()
    async with traffic(open_mesh):
        tokens = page.get_by_role("table", name="Generated tokens by arm")
        await expect(tokens.get_by_role("row", name="control")).to_contain_text("2", timeout=60_000)
        await expect(tokens.get_by_role("row", name="new")).to_be_visible()
    await expect(page.get_by_text("sample ratio as wanted")).to_be_visible()
    await page.get_by_label("Compare by").select_option("Generated tokens")
    await expect(page.get_by_role("table", name="Errors by arm")).to_be_hidden()
    await page.get_by_role("button", name="Stop").click()
    stop = page.get_by_role("dialog", name="Stop this experiment?")
    await stop.get_by_role("combobox").select_option("control")
    await stop.get_by_role("button", name="Stop experiment").click()
    await expect(
        page.get_by_text("The experiment has ended; control was promoted.")
    ).to_be_visible()
    await expect(page.get_by_role("button", name="Stop")).to_have_count(0)


async def test_a_shadow_and_its_pairs(page: Page, open_mesh: ConsoleMesh) -> None:
    await page.goto("/rollouts?tab=shadows")
    await page.get_by_role("button", name="New shadow").click()
    dialog = page.get_by_role("dialog", name="Start a shadow")
    await dialog.get_by_label("Model").select_option("steps")
    await dialog.get_by_label("Repeat at version").select_option("1")
    await dialog.get_by_label("Sample, in percent").fill("100")
    await dialog.get_by_role("button", name="Start shadow").click()
    await expect(page.get_by_role("heading", level=1, name="Shadow s-")).to_be_visible()
    pair = page.get_by_role("row", name="shadowed")
    async with MeshClient(open_mesh.mesh.address) as client:
        # A generation service hears of a shadow a moment after its start.
        for number in range(60):
            await client.complete(
                "steps@2", prompt="Hi", max_tokens=4, request_id=f"shadowed-{number}"
            )
            await page.get_by_role("button", name="Read again").click()
            if await pair.count():
                break
            await asyncio.sleep(1)
    pair = pair.first
    await expect(pair).to_contain_text("equal")
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_role("button", name="Stop shadow").click()
    await expect(page.get_by_text("The shadow has ended.")).to_be_visible()


async def test_unknown_ids_are_told(open_mesh: ConsoleMesh, visit: OpenVisit) -> None:
    opened = await visit(open_mesh.url)
    opened.allow("404")
    page = opened.page
    for path, word in (
        ("rollouts", "rollout"),
        ("experiments", "experiment"),
        ("shadows", "shadow"),
    ):
        await page.goto(f"/{path}/nothing-here")
        await expect(page.get_by_text(f"This {word} cannot be shown")).to_be_visible()
