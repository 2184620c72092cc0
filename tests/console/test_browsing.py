"""The browser sessions of these tests see what they are there to see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser

from tests.console.accessibility import assert_accessible
from tests.console.browsing import Visit, visiting

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'"
PAGES = {
    "/fine": "<title>fine</title>",
    "/logs": "<script src='/error.js'></script>",
    "/throws": "<script src='/throw.js'></script>",
    "/inline": "<script>1</script>",
    "/style": "<p style='color: red'>red</p>",
    "/foreign": "<img src='http://127.0.0.2:9/picture.png'>",
    "/nameless": "<html lang=en><title>nameless</title><main><h1>A</h1><button></button></main>",
    "/dialog": "<script src='/alert.js'></script>",
}
Answer = Callable[[web.Request], Awaitable[web.Response]]
SCRIPTS = {
    "/error.js": "console.error('badly')",
    "/throw.js": "throw new Error('thrown')",
    "/alert.js": "alert('seen')",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site() -> AsyncIterator[str]:
    """A site with a page for everything that must not happen."""
    app = web.Application()
    for path, body in PAGES.items():
        app.router.add_get(path, _answer(f"<!doctype html><meta charset=utf-8>{body}", "text/html"))
    for path, body in SCRIPTS.items():
        app.router.add_get(path, _answer(body, "text/javascript"))
    app.router.add_get("/favicon.ico", _answer("", "image/x-icon"))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def _answer(body: str, content_type: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        headers = {"content-security-policy": POLICY}
        return web.Response(text=body, content_type=content_type, headers=headers)

    return answer


async def visited(browser: Browser, site: str, path: str, results: Path) -> Visit:
    """A session that was at a page and ended; its faults are allowed."""
    async with visiting(browser, site, results, lambda: False) as visit:
        visit.allow("")
        await visit.page.goto(path)
        await visit.page.wait_for_load_state("networkidle")
    return visit


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/logs", "console error: badly"),
        ("/throws", "page error: thrown"),
        ("/inline", "policy violation: script-src-elem inline"),
        ("/style", "policy violation: style-src-attr inline"),
        ("/foreign", "request to another origin: http://127.0.0.2:9/picture.png"),
        ("/dialog", "alert dialog: seen"),
    ],
)
async def test_a_fault_is_noted(
    browser: Browser, site: str, path: str, fault: str, tmp_path: Path
) -> None:
    visit = await visited(browser, site, path, tmp_path)
    assert any(each.startswith(fault) for each in visit.faults), visit.faults


async def test_what_has_no_name_is_not_accessible(browser: Browser, site: str) -> None:
    async with visiting(browser, site, Path(), lambda: False) as visit:
        await visit.page.goto("/nameless")
        with pytest.raises(AssertionError, match="dark: button-name"):
            await assert_accessible(visit.page)


async def test_a_page_without_faults_has_none(browser: Browser, site: str, tmp_path: Path) -> None:
    visit = await visited(browser, site, "/fine", tmp_path / "results")
    assert visit.faults == []
    assert not (tmp_path / "results").exists()


async def test_a_fault_fails_its_test_and_leaves_a_trace(
    browser: Browser, site: str, tmp_path: Path
) -> None:
    async def visit_with_a_fault() -> None:
        async with visiting(browser, site, tmp_path, lambda: False) as visit:
            await visit.page.goto("/logs")
            await visit.page.wait_for_load_state("networkidle")

    with pytest.raises(pytest.fail.Exception, match="badly"):
        await visit_with_a_fault()
    assert {"page-0.png", "trace.zip"} <= {each.name for each in tmp_path.iterdir()}
