"""The pages Mesh, Requests, System and Events, of a real mesh."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Page, expect

from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import MeshError
from tests.console.accessibility import assert_accessible
from tests.console.browsing import WAIT_MS
from tests.console.meshes import ConsoleMesh
from tests.fakes.live_gateway import LiveGateway

PAGES = ("mesh", "requests", "system", "events")
# A busy machine needs time for a page.
expect.set_options(timeout=WAIT_MS)


async def generate(mesh: ConsoleMesh, prompt: str = "Once upon", **options: Any) -> None:
    async with MeshClient(mesh.mesh.address) as client:
        async for _ in client.generate("pocket", prompt=prompt, max_tokens=8, **options):
            pass


async def test_the_mesh_shows_engines_topology_and_processes(
    open_mesh: ConsoleMesh, page: Page
) -> None:
    await page.goto("/mesh")
    engines = page.get_by_role("table", name="Engines")
    await expect(engines.get_by_text("pocket@1")).to_be_visible()
    await expect(engines.get_by_text("serving").first).to_be_visible()
    drawing = page.get_by_role("region", name="Topology")
    for service in ("gateway", "generation", "model", "runtime", "pocket"):
        await expect(drawing.get_by_role("button", name=re.compile(f"^{service} "))).to_be_visible()
    await engines.get_by_role("row").nth(1).click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_text("KV memory")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()


async def test_boxes_of_the_topology_open_by_the_keyboard(page: Page) -> None:
    await page.goto("/mesh")
    drawing = page.get_by_role("region", name="Topology")
    box = drawing.get_by_role("button", name=re.compile("^model "))
    await box.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_contain_text("model-")


async def test_traffic_follows_requests(open_mesh: ConsoleMesh, page: Page) -> None:
    await generate(open_mesh)
    await page.goto("/mesh")
    traffic = page.get_by_role("table", name="Traffic of the last minute")
    await expect(traffic.get_by_text("all models")).to_be_visible()


async def test_a_request_appears_live_and_has_a_timeline(
    open_mesh: ConsoleMesh, page: Page
) -> None:
    await page.goto("/requests")
    await expect(page.get_by_text(re.compile(r"of \d+ requests"))).to_be_visible()
    await generate(open_mesh, request_id="live-timeline")
    await page.get_by_label("Request id, trace or caller").fill("live-timeline")
    row = page.get_by_role("table", name="Requests").get_by_role("row").nth(1)
    await expect(row).to_contain_text("pocket@1")
    await expect(row).to_contain_text("grpc")
    await row.click()
    await expect(page.get_by_text("live-timeline")).to_be_visible()
    timeline = page.get_by_role("list", name="Timeline")
    await expect(timeline.get_by_text("engine", exact=True).first).to_be_visible()
    await timeline.get_by_role("button").first.click()
    await expect(timeline.get_by_text("begins at")).to_be_visible()


async def test_a_failed_request_says_why(open_mesh: ConsoleMesh, page: Page) -> None:
    async with MeshClient(open_mesh.mesh.address) as client:
        with pytest.raises(MeshError):
            await client.complete("no-such-model", prompt="Hi")
    await page.goto("/requests")
    await page.get_by_label("State").select_option("failed")
    table = page.get_by_role("table", name="Requests")
    await expect(table.get_by_text("no-such-model").first).to_be_visible()
    await expect(table.get_by_text("MODEL_NOT_FOUND").first).to_be_visible()


async def test_filters_that_nothing_passes_say_so(open_mesh: ConsoleMesh, page: Page) -> None:
    await generate(open_mesh)
    await page.goto("/requests")
    await page.get_by_label("Request id, trace or caller").fill("nobody has this")
    await expect(page.get_by_text("No request passes the filters")).to_be_visible()
    await page.get_by_role("button", name="Clear").click()
    await expect(page.get_by_role("table", name="Requests")).to_be_visible()


async def test_the_system_shows_hosts_and_processes(page: Page) -> None:
    await page.goto("/system")
    await expect(page.get_by_text("Main memory")).to_be_visible()
    await expect(page.get_by_text(re.compile("Disk of "))).to_be_visible()
    await page.get_by_role("tab", name="Processes").click()
    table = page.get_by_role("table", name="Processes")
    for service in ("gateway", "generation", "model", "runtime", "engine"):
        await expect(table.get_by_text(service, exact=True).first).to_be_visible()


async def test_draining_is_asked_first(page: Page) -> None:
    await page.goto("/system?tab=processes")
    await page.get_by_role("button", name=re.compile("^Actions of gateway-")).click()
    await page.get_by_role("menuitem", name="Drain…").click()
    dialog = page.get_by_role("dialog", name="Drain this process?")
    await expect(dialog).to_contain_text("gateway")
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(dialog).to_be_hidden()


async def test_settings_are_searched_and_say_where_they_come_from(page: Page) -> None:
    await page.goto("/system?tab=settings")
    settings = page.get_by_role("region", name="Settings")
    await expect(settings.get_by_text("gateway.recent_requests")).to_be_visible()
    await page.get_by_label("Search settings").fill("gateway.listen")
    await expect(settings.get_by_text("command line")).to_be_visible()
    await expect(settings.get_by_text("gateway.recent_requests")).to_be_hidden()


async def test_logs_are_followed(open_mesh: ConsoleMesh, page: Page) -> None:
    await page.goto("/system?tab=logs")
    await page.get_by_label("Search").fill("GenerationService/Generate")
    await generate(open_mesh)
    log = page.get_by_role("log")
    await expect(log.get_by_text("GenerationService/Generate").first).to_be_visible()
    await log.get_by_role("button").first.click()
    await expect(page.get_by_role("region", name="Record")).to_contain_text("mlxmesh.access")


async def test_events_are_listed_filtered_and_shown(page: Page) -> None:
    await page.goto("/events")
    table = page.get_by_role("table", name="Events")
    # The list draws only what is in view.
    await page.get_by_label("Search").fill("engine.ready")
    await expect(table.get_by_text("engine.ready").first).to_be_visible()
    await page.get_by_label("Search").fill("")
    await page.get_by_label("Area").select_option("model")
    await expect(table.get_by_text("engine.ready")).to_have_count(0)
    await table.get_by_role("row").nth(1).click()
    await expect(page.get_by_text("Belongs to")).to_be_visible()


@pytest.mark.parametrize("name", PAGES)
async def test_pages_are_accessible(page: Page, name: str) -> None:
    await page.goto(f"/{name}")
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    waiting = page.get_by_role("status").filter(has_text=re.compile("Asking|Loading"))
    await expect(waiting).to_have_count(0)
    await assert_accessible(page)


async def test_a_large_mesh_keeps_the_page_small(built_console: None, visit: Any) -> None:
    """What is on the screen does not grow with the mesh: 50 engines, and 1,000 requests."""
    gateway = LiveGateway()
    async with gateway.running() as origin:
        page = (await visit(origin)).page
        await page.goto("/mesh")
        await expect(page.get_by_role("table", name="Engines")).to_be_visible()
        seen = gateway.sent
        await page.wait_for_function("document.querySelectorAll('progress').length > 5")
        assert await page.locator("*").count() < 1500
        await page.goto("/requests")
        await expect(page.get_by_text("1000 of 1000 requests")).to_be_visible()
        assert gateway.sent > seen
        assert await page.get_by_role("table", name="Requests").get_by_role("row").count() < 80
        assert await page.locator("*").count() < 1500
