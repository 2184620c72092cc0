"""A browser, meshes with the console, and pages that fail their test on what must never happen.

All of it lives on one event loop: asynchronous fixtures of test modules here need
`pytest_asyncio.fixture(loop_scope="session")`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from tests.console.browsing import Visit, launch_chromium, visiting
from tests.console.meshes import ConsoleMesh, build_console, create_admin
from tests.e2e.running_mesh import STDIO_TOOLS, start_mesh, stop_mesh

HERE = Path(__file__).parent
# The first test of a session waits for the build, a mesh and its models.
TIMEOUT_S = 900
RESULTS = HERE.parents[1] / "build" / "console-tests"
REPORT = pytest.StashKey[pytest.TestReport]()

OpenVisit = Callable[..., Awaitable[Visit]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here drives Chromium, on the loop that the browser lives on."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.console)
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call":
        item.stash[REPORT] = report
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, or the one that is in PATH."""
    async with async_playwright() as playwright:
        browser = await launch_chromium(playwright)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def built_console() -> None:
    """The console is built, or the test fails."""
    build_console()


@pytest.fixture(scope="session")
def open_mesh(
    built_console: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleMesh]:
    """A mesh without users that serves `pocket`, for all tests: names of tests must not collide."""
    running = start_mesh(tmp_path_factory.mktemp("open"), env=STDIO_TOOLS)
    yield ConsoleMesh(running)
    stop_mesh(running)


@pytest.fixture(scope="session")
def closed_mesh(
    built_console: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleMesh]:
    """A mesh with the administrator `ada`, for all tests."""
    running = start_mesh(tmp_path_factory.mktemp("closed"))
    create_admin(running)
    yield ConsoleMesh(running)
    stop_mesh(running)


@pytest.fixture(scope="session")
def steps(open_mesh: ConsoleMesh, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a model of the open mesh with two versions; the first one was loaded."""
    open_mesh.register_versions("steps", tmp_path_factory.mktemp("versions"))
    return "steps"


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, request: pytest.FixtureRequest) -> AsyncIterator[OpenVisit]:
    """Opens a browser session at an origin: `opened = await visit(mesh.url)`, then `opened.page`.

    Its end fails the test where the page had an error, broke the content security policy, or
    asked another origin. A failed test leaves a picture and a trace in build/console-tests/.
    """
    results = RESULTS / request.node.name.replace("/", "_")[:100]

    def failed() -> bool:
        report = request.node.stash.get(REPORT, None)
        return report is None or report.failed

    async with AsyncExitStack() as stack:

        async def open_visit(origin: str, **options: object) -> Visit:
            return await stack.enter_async_context(
                visiting(browser, origin, results, failed, **options)
            )

        yield open_visit


@pytest_asyncio.fixture(loop_scope="session")
async def page(open_mesh: ConsoleMesh, visit: OpenVisit) -> Page:
    """A page of the open mesh; paths of `goto` are relative to it."""
    return (await visit(open_mesh.url)).page


@pytest_asyncio.fixture(loop_scope="session")
async def admin_page(closed_mesh: ConsoleMesh, visit: OpenVisit) -> Page:
    """A page of the mesh with users, where `ada` is signed in."""
    opened = await visit(closed_mesh.url)
    await closed_mesh.sign_in(opened.page)
    return opened.page
