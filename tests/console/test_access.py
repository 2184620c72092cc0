"""Signing in, the first user, and the page of access."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from openai import AsyncOpenAI, AuthenticationError
from playwright.async_api import Page, expect

from tests.console.accessibility import assert_accessible
from tests.console.conftest import OpenVisit
from tests.console.meshes import ADMIN, PASSWORD, ConsoleMesh
from tests.e2e.running_mesh import start_mesh, stop_mesh

REFUSED = r"the server responded with a status of 4\d\d"


@pytest.fixture(scope="module")
def new_mesh(
    built_console: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleMesh]:
    """A mesh that gets its first user from its test."""
    running = start_mesh(tmp_path_factory.mktemp("new"))
    yield ConsoleMesh(running)
    stop_mesh(running)


async def test_the_first_run_creates_the_admin_and_signs_in(
    new_mesh: ConsoleMesh, visit: OpenVisit
) -> None:
    page = (await visit(new_mesh.url)).page
    await page.goto("/access")
    await page.get_by_role("button", name="Create the administrator").click()
    await expect(page.get_by_text("switches authentication on")).to_be_visible()
    await assert_accessible(page)
    await page.get_by_label("Name").fill(ADMIN)
    await page.get_by_label("Password", exact=True).fill(PASSWORD)
    await page.get_by_label("Password again").fill("another one")
    await expect(page.get_by_role("button", name="Create and sign in")).to_be_disabled()
    await page.get_by_label("Password again").fill(PASSWORD)
    await page.get_by_role("button", name="Create and sign in").click()
    await expect(page.get_by_text("Authentication is on. You are signed in.")).to_be_visible(
        timeout=60_000
    )
    await page.goto("/access")
    await expect(page.get_by_role("row", name=f"{ADMIN} (you)")).to_contain_text("admin")
    await page.goto("/first-run")
    await expect(page.get_by_text("This mesh has users already.")).to_be_visible()
    stranger = (await visit(new_mesh.url)).page
    await stranger.goto("/access?tab=keys")
    await expect(stranger).to_have_url(re.compile(r"/sign-in\?next="))


async def sign_in(page: Page, name: str, password: str) -> None:
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()


async def test_signing_in_and_out(closed_mesh: ConsoleMesh, visit: OpenVisit) -> None:
    opened = await visit(closed_mesh.url)
    opened.allow(REFUSED)  # of the wrong password
    page = opened.page
    await page.goto("/access?tab=keys")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    await assert_accessible(page)
    await sign_in(page, ADMIN, "wrong password")
    await expect(page.get_by_role("alert")).to_have_text("wrong name or password")
    await expect(page.get_by_label("Password")).to_have_value("")
    await sign_in(page, ADMIN, PASSWORD)
    await expect(page).to_have_url(re.compile(r"/access\?tab=keys$"))
    await page.reload()
    await expect(page.get_by_role("button", name="New key")).to_be_visible()
    assert await page.evaluate("document.cookie") == ""
    await page.get_by_role("button", name="Theme and account").click()
    await page.get_by_role("menuitem", name=f"Sign out {ADMIN}").click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    await page.goto("/jobs")
    await expect(page).to_have_url(re.compile("/sign-in"))


@pytest.mark.parametrize(
    "next_", ["//evil.example", "https://evil.example", r"/\evil.example", "javascript:alert(1)"]
)
async def test_the_sign_in_leads_to_no_other_site(
    closed_mesh: ConsoleMesh, visit: OpenVisit, next_: str
) -> None:
    page = (await visit(closed_mesh.url)).page
    await closed_mesh.sign_in(page)
    await page.goto(f"/sign-in?next={next_}")
    await expect(page).to_have_url(f"{closed_mesh.url}/chat")


async def create_key(page: Page, name: str, **fields: str) -> str:
    await page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill(name)
    for label, value in fields.items():
        await dialog.get_by_label(label).fill(value)
    await dialog.get_by_role("button", name="Create key").click()
    await expect(dialog.get_by_text("It is shown this once")).to_be_visible()
    secret = await dialog.locator("pre").inner_text()
    await dialog.get_by_role("button", name="Done").click()
    return secret.strip()


async def test_a_key_is_shown_once_used_by_the_openai_client_and_revoked(
    closed_mesh: ConsoleMesh, admin_page: Page
) -> None:
    page = admin_page
    await page.goto("/access?tab=keys")
    secret = await create_key(page, "for openai", Models="pocket*", Expires="2099-12-31")
    assert secret not in await page.content()
    row = page.get_by_role("row", name="for openai")
    await expect(row).to_contain_text("pocket*")
    await assert_accessible(page)
    async with AsyncOpenAI(base_url=f"{closed_mesh.url}/v1", api_key=secret) as client:
        answer = await client.completions.create(model="pocket", prompt="Hi", max_tokens=4)
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        await row.get_by_role("button", name="Revoke for openai").click()
        await page.get_by_role("dialog").get_by_role("button", name="Revoke key").click()
        await expect(page.get_by_text("no longer works")).to_be_visible()
        await expect(row).to_have_count(0)
        with pytest.raises(AuthenticationError):
            await calls_end(client)
    await page.get_by_text("Show revoked keys").click()
    await expect(row).to_contain_text("revoked")


async def calls_end(client: AsyncOpenAI) -> None:
    """Calls until one fails: gateways are told of what is revoked a moment later."""
    async with asyncio.timeout(60):
        while True:
            await client.completions.create(model="pocket", prompt="Hi", max_tokens=4)


async def create_user(page: Page, name: str, **fields: str) -> None:
    await page.goto("/access?tab=users")
    await page.get_by_role("button", name="New user").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill(name)
    await dialog.get_by_label("Password").fill(PASSWORD)
    for label, value in fields.items():
        await dialog.get_by_label(label).fill(value)
    await dialog.get_by_role("button", name="Create user").click()


async def act(page: Page, name: str, action: str) -> None:
    await page.get_by_role("button", name=f"Actions for {name}").click()
    await page.get_by_role("menuitem", name=action).click()


async def test_a_user_from_its_creation_to_its_deletion(admin_page: Page) -> None:
    page = admin_page
    await create_user(page, "cleo", Team="red")
    row = page.get_by_role("row", name="cleo")
    await expect(row).to_contain_text("active")
    await expect(row).to_contain_text("red")
    await act(page, "cleo", "Disable")
    await expect(row).to_contain_text("disabled")
    await act(page, "cleo", "Enable")
    await expect(row).to_contain_text("active")
    await act(page, "cleo", "Role and team")
    dialog = page.get_by_role("dialog", name="Change cleo")
    await dialog.get_by_label("Role").select_option(label="Admin: may do everything")
    await dialog.get_by_label("Team").fill("")
    await dialog.get_by_role("button", name="Save").click()
    await expect(row).to_contain_text("admin")
    await expect(row).not_to_contain_text("red")
    await act(page, "cleo", "New password")
    dialog = page.get_by_role("dialog", name="New password for cleo")
    await dialog.get_by_label("New password").fill("another good password")
    await dialog.get_by_role("button", name="Set password").click()
    await expect(page.get_by_text("its sessions have ended")).to_be_visible()
    await assert_accessible(page)
    await act(page, "cleo", "Delete")
    await page.get_by_role("dialog").get_by_role("button", name="Delete user").click()
    await expect(row).to_have_count(0)
    await page.get_by_role("tab", name="Audit log").click()
    log = page.get_by_role("table", name="Audit log")
    await expect(log.get_by_role("row", name="user.deleted")).to_contain_text("user:cleo")
    await assert_accessible(page)


async def test_what_is_refused_says_why(closed_mesh: ConsoleMesh, visit: OpenVisit) -> None:
    opened = await visit(closed_mesh.url)
    opened.allow(REFUSED)
    page = opened.page
    await closed_mesh.sign_in(page)
    await create_user(page, "NOT legal")
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("alert")).to_contain_text("name must match")
    await expect(dialog.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    await create_user(page, ADMIN)
    await expect(dialog.get_by_role("alert")).to_contain_text(ADMIN)


async def test_a_member_sees_what_is_its_own(
    closed_mesh: ConsoleMesh, admin_page: Page, visit: OpenVisit
) -> None:
    await create_user(admin_page, "bob")
    await expect(admin_page.get_by_role("row", name="bob")).to_be_visible()
    page = (await visit(closed_mesh.url)).page
    await closed_mesh.sign_in(page, "bob")
    await page.goto("/access")
    tabs = page.get_by_role("tab")
    await expect(tabs).to_have_text(["Keys", "Quotas", "Usage", "Account"])
    await expect(page.get_by_role("link", name="System")).to_have_count(0)
    await page.get_by_role("button", name="New key").click()
    await expect(page.get_by_role("dialog").get_by_label("User")).to_have_count(0)
    await page.keyboard.press("Escape")
    await create_key(page, "bobs")
    await expect(page.get_by_role("row", name="bobs")).to_be_visible()
    await tabs.get_by_text("Account").click()
    await page.get_by_label("Present password").fill(PASSWORD)
    await page.get_by_label("New password").fill("a third good password")
    await page.get_by_role("button", name="Change password").click()
    await expect(page.get_by_text("The password was changed.")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("heading", name="Access")).to_be_visible()


async def test_a_quota_from_its_form_to_its_bars(admin_page: Page) -> None:
    page = admin_page
    await page.goto("/access?tab=quotas")
    await page.get_by_role("button", name="New quota").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("For").select_option("team")
    await dialog.get_by_label("Name").fill("blue")
    await dialog.get_by_label("Tokens a day").fill("12345")
    await dialog.get_by_label("Generations at once").fill("3")
    await dialog.get_by_role("button", name="Set quota").click()
    card = page.get_by_role("listitem").filter(has_text="team blue")
    await expect(card).to_contain_text("0 of 12,345")
    await expect(card.get_by_role("progressbar", name="Tokens a day: used")).to_be_visible()
    await assert_accessible(page)
    await card.get_by_role("button", name="Change the quota of team blue").click()
    await page.get_by_role("dialog").get_by_label("Tokens a day").fill("20000")
    await page.get_by_role("dialog").get_by_role("button", name="Set quota").click()
    await expect(card).to_contain_text("0 of 20,000")
    await card.get_by_role("button", name="Remove the quota of team blue").click()
    await page.get_by_role("dialog").get_by_role("button", name="Remove quota").click()
    await expect(card).to_have_count(0)


async def test_usage_by_day_with_its_table(closed_mesh: ConsoleMesh, admin_page: Page) -> None:
    page = admin_page
    await page.goto("/access?tab=keys")
    secret = await create_key(page, "used")
    async with AsyncOpenAI(base_url=f"{closed_mesh.url}/v1", api_key=secret) as client:
        await client.completions.create(model="pocket", prompt="Hi", max_tokens=4)
    await page.goto("/access?tab=usage")
    row = page.get_by_role("table", name="Usage").get_by_role("row", name="pocket@1")
    for _ in range(60):  # gateways report every few seconds
        await page.get_by_role("button", name="Read again").click()
        await page.wait_for_timeout(500)
        if await row.count():
            break
    await expect(row).to_be_visible()
    await expect(page.locator("canvas")).to_be_visible()
    await assert_accessible(page)
    await page.get_by_label("By", exact=True).select_option("user")
    await expect(
        page.get_by_role("table", name="Usage").get_by_role("row", name=ADMIN)
    ).to_be_visible()
