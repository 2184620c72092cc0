"""Browser sessions that note what a console must never do."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Playwright,
    Request,
    expect,
)

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
)
WAIT_MS = 60_000
LOCAL_SCHEMES = ("data:", "blob:", "about:")
expect.set_options(timeout=WAIT_MS)
# Runs before any script of a page.
REPORT_VIOLATIONS = """
document.addEventListener('securitypolicyviolation', (event) => {
  const where = `${event.sourceFile}:${event.lineNumber}`;
  window.reportViolation(`${event.effectiveDirective} ${event.blockedURI} ${where}`);
});
"""


async def launch_chromium(playwright: Playwright) -> Browser:
    """Starts the Chromium that is in PATH. A test that needs one fails where there is none."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("Chromium is not in PATH; on Debian: apt-get install chromium")
    return await playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))


@dataclass
class Visit:
    """A browser session with its first page."""

    origin: str
    context: BrowserContext
    page: Page
    faults: list[str] = field(default_factory=list[str])
    """What happened that must not: errors of scripts, violations, requests to other origins."""
    _allowed: list[re.Pattern[str]] = field(default_factory=list[re.Pattern[str]])

    def allow(self, pattern: str) -> None:
        """Does not count the faults in which the pattern is found, for tests that provoke them."""
        self._allowed.append(re.compile(pattern))

    def found(self) -> list[str]:
        """The faults that count."""
        return [each for each in self.faults if not any(a.search(each) for a in self._allowed)]

    def watch(self, page: Page) -> None:
        """Notes the faults of a page; the pages of this session's context are watched already."""
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        page.on("dialog", self._on_dialog)
        page.on("request", self._on_request)
        page.on("crash", lambda _: self.faults.append("the page crashed"))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            where = message.location.get("url", "")
            self.faults.append(f"console {message.type}: {message.text} ({where})")

    async def _on_dialog(self, dialog: Dialog) -> None:
        # Pages leave with unsaved text by a dialog of this one kind.
        if dialog.type != "beforeunload":
            self.faults.append(f"{dialog.type} dialog: {dialog.message}")
        await dialog.dismiss()

    def _on_request(self, request: Request) -> None:
        local = request.url.startswith((f"{self.origin}/", *LOCAL_SCHEMES))
        if not local:
            self.faults.append(f"request to another origin: {request.url}")


@asynccontextmanager
async def visiting(
    browser: Browser, origin: str, results: Path, failed: Callable[[], bool], **options: Any
) -> AsyncIterator[Visit]:
    """A new browser session, without cookies, that ends with a failure if it has faults."""
    context = await browser.new_context(base_url=origin, **options)
    context.set_default_timeout(WAIT_MS)
    await context.tracing.start(screenshots=True, snapshots=True)
    page = await context.new_page()
    visit = Visit(origin, context, page)
    context.on("page", visit.watch)
    visit.watch(page)
    await context.expose_binding(
        "reportViolation", lambda _, text: visit.faults.append(f"policy violation: {text}")
    )
    await context.add_init_script(REPORT_VIOLATIONS)
    try:
        yield visit
    finally:
        faults = visit.found()
        await _leave(visit, results, bool(faults) or failed())
    if faults:
        pytest.fail("\n".join(["the page is at fault:", *faults]))


async def _leave(visit: Visit, results: Path, keep: bool) -> None:
    """Closes the session; keeps pictures and the trace where they explain something."""
    if keep:
        results.mkdir(parents=True, exist_ok=True)
        for number, page in enumerate(visit.context.pages):
            await page.screenshot(path=results / f"page-{number}.png", full_page=True)
        await visit.context.tracing.stop(path=results / "trace.zip")
    else:
        await visit.context.tracing.stop()
    await visit.context.close()
