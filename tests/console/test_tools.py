"""The Tools page: servers, their tools and policies, calls."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.console.conftest import OpenVisit
from tests.console.meshes import ConsoleMesh
from tests.fakes.mcp.commands import hostile_server

READY_MS = 90_000


@pytest.fixture(scope="module", autouse=True)
def tools_service(open_mesh: ConsoleMesh) -> None:
    """Runs: a browser reports every call that is refused because it does not."""
    data_dir = ("--data-dir", str(open_mesh.mesh.data_dir))
    command = ("mcp", "add", "first", "--disabled", *data_dir, "--", "true")
    result = open_mesh.mesh.command(*command)
    assert result.returncode == 0, result.stderr


async def add_command(page: Page, name: str, how: str) -> None:
    await page.goto("/tools")
    await page.get_by_role("button", name="Add server").click()
    dialog = page.get_by_role("dialog", name="Add an MCP server")
    await dialog.get_by_label("Name", exact=True).fill(name)
    await dialog.get_by_label("Reached by").select_option("stdio")
    await expect(dialog.get_by_role("note")).to_contain_text("Add only programs that you trust")
    await dialog.get_by_label("Command, one argument a line").fill("\n".join(hostile_server(how)))
    await dialog.get_by_label("Environment, NAME=VALUE a line").fill("TOKEN=s3cret-value")
    await dialog.get_by_role("button", name="Add server").click()
    await expect(dialog).to_be_hidden(timeout=READY_MS)


async def test_a_server_from_its_form_to_its_removal(
    open_mesh: ConsoleMesh, visit: OpenVisit
) -> None:
    opened = await visit(open_mesh.url)
    opened.allow("status of 400 .*ToolService/CallTool")  # of arguments that are no object
    page = opened.page
    await page.goto("/tools")
    await expect(page.get_by_role("heading", level=1, name="Tools")).to_be_visible()
    await add_command(page, "demo", "markup")
    server = page.get_by_role("listitem").filter(has_text="demo")
    await expect(server.get_by_text("Ready")).to_be_visible(timeout=READY_MS)
    await expect(server).to_contain_text("1 tools")
    assert "s3cret-value" not in await page.content()

    await page.get_by_role("tab", name="Tools").click()
    # The description is shown as text.
    await expect(page.get_by_text("<img src=x onerror=alert(1)>").first).to_be_visible()
    await page.get_by_label("Policy of demo__markup").select_option(label="Always allow")
    await expect(page.get_by_text("The policy of demo__markup is set.")).to_be_visible()
    await page.get_by_role("button", name="Try demo__markup").click()
    dialog = page.get_by_role("dialog", name="Call demo__markup")
    await dialog.get_by_label("Arguments, as JSON").fill("[]")
    await dialog.get_by_role("button", name="Approve and call").click()
    await expect(dialog.get_by_text("must be a JSON object").first).to_be_visible()
    await dialog.get_by_label("Arguments, as JSON").fill("{}")
    await dialog.get_by_role("button", name="Approve and call").click()
    await expect(dialog.get_by_role("status")).to_contain_text("called")
    await dialog.get_by_role("button", name="Close", exact=True).last.click()

    await page.get_by_role("tab", name="Calls").click()
    await expect(page.get_by_text("demo.markup").first).to_be_visible()

    await page.get_by_role("tab", name="Servers").click()
    await page.get_by_role("button", name="Actions of demo").click()
    await page.get_by_role("menuitem", name="Remove").click()
    await page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    await expect(page.get_by_text("demo is removed.")).to_be_visible()
    await expect(server).to_have_count(0)


async def test_a_server_that_fails_says_why(page: Page, open_mesh: ConsoleMesh) -> None:
    await add_command(page, "broken", "exits")
    server = page.get_by_role("listitem").filter(has_text="broken")
    await expect(server).to_contain_text("no configuration", timeout=READY_MS)
    await page.get_by_role("button", name="Actions of broken").click()
    await page.get_by_role("menuitem", name="Disable").click()
    await expect(server.get_by_text("Disabled")).to_be_visible()
