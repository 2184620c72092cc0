"""Every page by axe-core, in both color schemes and three widths; and the way by keyboard alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from playwright.async_api import Locator, Page, expect

from mlxmesh_client import MeshClient
from tests.console.accessibility import assert_accessible
from tests.console.conftest import OpenVisit
from tests.console.meshes import ADMIN, PASSWORD, ConsoleMesh

WIDTHS = (360, 768, 1280)
PAGES = (
    *("/chat", "/models", "/rollouts", "/rollouts?tab=shadows", "/rollouts?tab=ensembles"),
    *("/rollouts/seen", "/experiments", "/experiments/seen", "/shadows/seen", "/mesh"),
    *("/requests", "/jobs", "/tools", "/access", "/system", "/events"),
)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
FOCUSED = """
() => {
  const node = document.activeElement;
  const label = node.getAttribute('aria-label') || node.labels?.[0]?.innerText || node.innerText;
  return (label || node.tagName).trim();
}
"""


@pytest.fixture(scope="module", autouse=True)
def shown(open_mesh: ConsoleMesh, steps: str) -> Iterator[None]:
    """Something on each page: a rollout, an experiment, a shadow, an ensemble, a job, requests."""
    for alias in ("stable", "trial"):
        open_mesh.command("alias", steps, alias, "1")
    rollout = ("--to", "2", "--alias", "stable", "--hold", "1h", "--id", "seen")
    open_mesh.command("rollout", "start", steps, *rollout)
    arms = ("--arm", "control=1:50", "--arm", "new=2:50", "--alias", "trial", "--id", "seen")
    open_mesh.command("experiment", "start", steps, *arms)
    open_mesh.command("shadow", "start", steps, "--to", "1", "--id", "seen")
    open_mesh.command("ensembles", "set", "seen", "--fallback", f"{steps},pocket")
    open_mesh.command("jobs", "submit", "Once upon a time", "--model", "pocket")
    asyncio.run(_call(open_mesh, f"{steps}:trial"))
    yield
    open_mesh.command("rollout", "abort", "seen")
    open_mesh.command("experiment", "stop", "seen")
    open_mesh.command("shadow", "stop", "seen")


async def _call(mesh: ConsoleMesh, model: str) -> None:
    async with MeshClient(mesh.mesh.address) as client:
        for number in range(4):
            session_id = f"session-{number}"
            await client.complete(model, prompt="Hi", max_tokens=3, session_id=session_id)


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_accessible_and_fits(page: Page, path: str) -> None:
    await page.goto(path)
    await expect(page.get_by_role("heading", level=1).first).to_be_attached()
    await page.wait_for_timeout(700)
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate(OVERFLOW) <= 0, f"{path} is wider than {width} px"
        await assert_accessible(page)


@pytest.mark.parametrize("path", ["/sign-in", "/first-run"])
async def test_the_way_in_is_accessible(
    closed_mesh: ConsoleMesh, visit: OpenVisit, path: str
) -> None:
    page = (await visit(closed_mesh.url)).page
    await page.goto(path)
    await expect(page.get_by_role("heading", level=1).first).to_be_attached()
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 800})
        await assert_accessible(page)


@pytest.mark.parametrize(
    ("path", "button", "dialog"),
    [
        ("/rollouts", "New rollout", "Start a rollout"),
        ("/rollouts?tab=shadows", "New shadow", "Start a shadow"),
        ("/experiments", "New experiment", "Start an experiment"),
    ],
)
async def test_a_dialog_keeps_the_focus_and_gives_it_back(
    page: Page, path: str, button: str, dialog: str
) -> None:
    await page.goto(path)
    opener = page.get_by_role("button", name=button)
    await opener.focus()
    await page.keyboard.press("Enter")
    opened = page.get_by_role("dialog", name=dialog)
    await expect(opened).to_be_visible()
    await assert_accessible(page)
    for _ in range(25):
        await page.keyboard.press("Tab")
        assert await page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    await page.keyboard.press("Escape")
    await expect(opened).to_be_hidden()
    await expect(opener).to_be_focused()


async def tab_to(page: Page, target: Locator, most: int = 60) -> None:
    """Presses Tab until the target has the focus."""
    for _ in range(most):
        if await target.evaluate("(node) => node === document.activeElement"):
            return
        await page.keyboard.press("Tab")
    pytest.fail(f"Tab does not reach {target}; it is at {await page.evaluate(FOCUSED)}")


async def test_sign_in_and_chat_by_keyboard(closed_mesh: ConsoleMesh, visit: OpenVisit) -> None:
    opened = await visit(closed_mesh.url)
    opened.allow("status of 401")
    page = opened.page
    await page.goto("/chat")
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await tab_to(page, page.get_by_label("Name"))
    await page.keyboard.type(ADMIN)
    await tab_to(page, page.get_by_label("Password", exact=True))
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press("Enter")
    message = page.get_by_label("Message", exact=True)
    await expect(message).to_be_visible()
    await tab_to(page, message)
    await page.keyboard.type("Once upon a time")
    await page.keyboard.press("Enter")
    answer = page.locator('article[data-role="assistant"]')
    await expect(answer).to_have_attribute("data-state", "done", timeout=60_000)
    assert await answer.inner_text()


async def test_the_first_tab_skips_the_navigation(page: Page) -> None:
    await page.goto("/rollouts")
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await page.keyboard.press("Tab")
    assert await page.evaluate(FOCUSED) == "Skip to the content"
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await page.evaluate("!!document.activeElement.closest('main')")
