"""The chat page as a person uses it, and a model that says what a test wants."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Locator, Page, expect

from tests.e2e.running_mesh import RunningMesh, mlxmesh
from tests.fakes.openai_upstream import MODEL, FakeUpstream, Script, running_upstream

FINISHED_MS = 60_000
SCRIPTED = "scripted"
"""The name of the model that the fake upstream answers for."""
MCP_SERVER = Path(__file__).parents[1] / "fakes" / "mcp" / "stdio_server.py"


@dataclass(frozen=True)
class ChatPage:
    """What there is on the page."""

    page: Page

    async def open(self, model: str = SCRIPTED) -> None:
        """Opens a new conversation with a model."""
        await self.page.goto("/chat")
        await self.page.get_by_label("Model", exact=True).select_option(model)

    @property
    def composer(self) -> Locator:
        return self.page.get_by_label("Message", exact=True)

    async def send(self, text: str) -> None:
        await self.composer.fill(text)
        await self.composer.press("Enter")

    def answers(self, lane: int = 0) -> Locator:
        return self.page.locator(f"[data-lane='{lane}'] [data-role='assistant']")

    def asked(self, lane: int = 0) -> Locator:
        return self.page.locator(f"[data-lane='{lane}'] [data-role='user']")

    async def finished(self, lane: int = 0, *, state: str = "done") -> Locator:
        """The last answer, once it has ended."""
        answer = self.answers(lane).last
        await expect(answer).to_have_attribute("data-state", state, timeout=FINISHED_MS)
        return answer

    def text_of(self, answer: Locator) -> Locator:
        return answer.locator(".markdown")

    async def show_settings(self) -> None:
        button = self.page.get_by_role("button", name="Settings", exact=True)
        if await button.get_attribute("aria-expanded") != "true":  # waits for the page
            await button.click()

    async def open_section(self, title: str) -> None:
        """Opens a part of the settings."""
        await self.show_settings()
        part = self.page.locator("details", has=self.page.locator("summary", has_text=title))
        if await part.get_attribute("open") is None:
            await part.locator("summary").click()


@asynccontextmanager
async def scripted_model(mesh: RunningMesh) -> AsyncIterator[FakeUpstream]:
    """The model SCRIPTED, which says the pieces of the fake's script."""
    async with running_upstream() as upstream:
        takes = ("chat", "tools", "json_schema")
        done = await asyncio.to_thread(
            mesh.command,
            *("models", "add-upstream", SCRIPTED, "--url", upstream.url, "--model", MODEL),
            *(word for each in takes for word in ("--takes", each)),
        )
        assert done.returncode == 0, done.stderr
        yield upstream


async def add_tools(mesh: RunningMesh, name: str) -> None:
    """An MCP server of the fakes, whose calls are asked for."""
    options = ("--access", "everyone", "--data-dir", str(mesh.data_dir))
    command = ("mcp", "add", name, *options, "--", sys.executable, str(MCP_SERVER))
    done = await asyncio.to_thread(mlxmesh, *command)
    assert done.returncode == 0, done.stderr


def words(count: int) -> list[str]:
    """Pieces that tell whether one was lost or came twice."""
    return [f"word{number} " for number in range(count)]


def slow(count: int, *, goes_on: asyncio.Event | None = None) -> Script:
    """An answer that takes a while, and until it may go on has half of its words."""
    return Script(pieces=words(count), pause_s=0.03, goes_on=goes_on)
