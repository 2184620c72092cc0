"""A page of another origin in the browser of somebody who is signed in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Page, Response

from tests.console.browsing import Visit
from tests.console.conftest import OpenVisit
from tests.console.meshes import ConsoleMesh

CREATE = "/mlxmesh.access.v1.AccessService/CreateUser"
LIST = "/mlxmesh.access.v1.AccessService/ListUsers"
FETCH = """
async ([url, options]) => {
  try {
    const response = await fetch(url, options);
    return [response.type, response.status, await response.text()];
  } catch (error) {
    return ['refused', 0, String(error)];
  }
}
"""
SUBMIT = """
([url, type, name, value]) => {
  const form = document.createElement('form');
  Object.assign(form, { method: 'POST', action: url, enctype: type });
  const input = document.createElement('input');
  Object.assign(input, { name, value });
  form.append(input);
  document.body.append(form);
  form.submit();
}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def attacker() -> AsyncIterator[int]:
    """The port of a server of pages that attack."""

    async def empty(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>attacker</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", empty)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="session")
async def victim(closed_mesh: ConsoleMesh, visit: OpenVisit) -> Visit:
    """A browser in which an administrator is signed in, and whose faults are the attacker's."""
    opened = await visit(closed_mesh.url)
    await closed_mesh.sign_in(opened.page)
    opened.allow("")
    return opened


async def users(victim: Visit) -> list[str]:
    """The users of the mesh, as the victim's own console sees them."""
    call = victim.page.request
    token = (await (await call.get("/session")).json())["csrf_token"]
    headers = {"origin": victim.origin, "x-csrf-token": token}
    answer = await call.post(LIST, data={}, headers=headers)
    assert answer.ok, await answer.text()
    return sorted(user["name"] for user in (await answer.json())["users"])


def _post(body: Any, headers: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"method": "POST", "body": json.dumps(body), "headers": headers, **more}


# Ports are of the same site, so that the cookies are sent; the other name is another site.
@pytest.fixture(params=["127.0.0.1", "localhost"])
def attack_origin(request: pytest.FixtureRequest, attacker: int) -> str:
    return f"http://{request.param}:{attacker}"


HEADERS = (
    {"content-type": "text/plain"},
    {"content-type": "application/json"},
    {"content-type": "application/x-www-form-urlencoded"},
    {"content-type": "application/json", "x-csrf-token": "guessed"},
    {"content-type": "application/connect+json"},
)
FORMS = (
    ("text/plain", '{"name": "mallory", "x": "', '"}'),
    ("application/x-www-form-urlencoded", "name", "mallory"),
    ("multipart/form-data", "name", "mallory"),
)


async def test_fetches_of_another_origin_change_nothing(victim: Visit, attack_origin: str) -> None:
    page = victim.page
    await page.goto(attack_origin)
    for headers, mode in product(HEADERS, ("cors", "no-cors")):
        options = _post({"name": "mallory"}, headers, mode=mode, credentials="include")
        kind, _, text = await page.evaluate(FETCH, [victim.origin + CREATE, options])
        assert kind in ("refused", "opaque"), (headers, mode, text)
    assert "mallory" not in await users(victim)


async def test_forms_of_another_origin_change_nothing(victim: Visit, attack_origin: str) -> None:
    page = victim.page
    for form in FORMS:
        await page.goto(attack_origin)
        async with page.expect_navigation() as navigation:
            await page.evaluate(SUBMIT, [victim.origin + CREATE, *form])
        response: Response | None = await navigation.value
        assert response is not None
        assert response.status >= 400, form
    assert "mallory" not in await users(victim)


async def test_another_origin_reads_nothing(victim: Visit, attack_origin: str) -> None:
    page = victim.page
    await page.goto(attack_origin)
    for path in ("/session", "/v1/models", f"{LIST}?message=%7B%7D"):
        options = {"credentials": "include"}
        kind, _, text = await page.evaluate(FETCH, [victim.origin + path, options])
        assert kind == "refused", (path, text)


async def test_no_other_page_frames_the_console(victim: Visit, attack_origin: str) -> None:
    page = victim.page
    await page.goto(attack_origin)
    await page.evaluate(
        """(url) => { const frame = document.createElement('iframe');
        frame.src = url; document.body.append(frame); }""",
        f"{victim.origin}/access",
    )
    await page.wait_for_timeout(1000)
    assert all(victim.origin not in frame.url for frame in page.frames)


async def test_the_console_itself_needs_its_token(victim: Visit) -> None:
    page: Page = victim.page
    await page.goto("/access")
    own = (await (await page.request.get("/session")).json())["csrf_token"]
    for token, status in ((None, 403), ("", 403), ("wrong", 403), (own, 200)):
        headers = {"content-type": "application/json"}
        if token is not None:
            headers["x-csrf-token"] = token
        body = {"name": "made-by-token", "kind": "USER_KIND_SERVICE_ACCOUNT"}
        found = await page.evaluate(FETCH, [CREATE, _post(body, headers)])
        assert found[1] == status, found
        assert ("made-by-token" in await users(victim)) == (status == 200)


async def test_scripts_cannot_read_the_cookies(victim: Visit) -> None:
    await victim.page.goto("/access")
    assert await victim.page.evaluate("document.cookie") == ""
    cookies = {cookie.get("name", ""): cookie for cookie in await victim.context.cookies()}
    assert {"mlxmesh-access", "mlxmesh-refresh"} <= set(cookies)
    for cookie in cookies.values():
        assert cookie.get("httpOnly")
        assert cookie.get("sameSite") == "Strict"
    assert cookies["mlxmesh-refresh"].get("path") == "/session"
    stored = "JSON.stringify([{...localStorage}, {...sessionStorage}])"
    held = await victim.page.evaluate(stored)
    assert cookies["mlxmesh-access"].get("value", "") not in held


async def test_signing_out_ends_the_session(closed_mesh: ConsoleMesh, visit: OpenVisit) -> None:
    opened = await visit(closed_mesh.url)
    opened.allow("status of 401")
    await closed_mesh.sign_in(opened.page)
    before = await opened.context.cookies()
    await opened.page.goto("/access")
    token = (await (await opened.page.request.get("/session")).json())["csrf_token"]
    answer = await opened.page.request.delete("/session", headers={"x-csrf-token": token})
    assert answer.ok
    assert await opened.context.cookies() == []
    # Somebody who kept the cookies begins no new session with them.
    kept: Any = [each for each in before if each.get("name") == "mlxmesh-refresh"]
    await opened.context.add_cookies(kept)
    session = await (await opened.page.request.get("/session")).json()
    assert session["user"] is None
