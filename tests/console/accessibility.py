"""axe-core on a page, in both color schemes."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from playwright.async_api import Page

from tests.console.meshes import ROOT

AXE = ROOT / "gateway" / "console" / "node_modules" / "axe-core" / "axe.min.js"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WORST = ("serious", "critical")
TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
RUN = """
async (tags) => {
  const result = await axe.run(document, { runOnly: { type: 'tag', values: tags } });
  return result.violations.map((rule) => ({
    id: rule.id,
    impact: rule.impact,
    help: rule.help,
    nodes: rule.nodes.map((node) => `${node.html} | ${node.failureSummary}`),
  }));
}
"""


@cache
def _axe() -> str:
    return AXE.read_text()


async def findings(page: Page) -> list[dict[str, Any]]:
    """What axe-core finds wrong with the page as it is now."""
    # By the debugger's protocol, which the content security policy does not restrict.
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(_axe())
    return await page.evaluate(RUN, list(TAGS))


async def assert_accessible(page: Page) -> None:
    """No serious or critical finding, neither in light nor in dark."""
    wrong: list[str] = []
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for found in await findings(page):
            if found["impact"] in WORST:
                wrong += [f"{scheme}: {found['id']}: {each}" for each in found["nodes"]]
    await page.emulate_media(color_scheme="light")
    assert not wrong, "\n".join([page.url, *wrong])
