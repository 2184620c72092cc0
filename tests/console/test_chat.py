"""The chat page: streams that survive, branches, comparisons, schemas and tools."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.console.accessibility import assert_accessible
from tests.console.browsing import Visit
from tests.console.chatting import FINISHED_MS, ChatPage, add_tools, scripted_model, slow, words
from tests.console.conftest import OpenVisit
from tests.console.meshes import ConsoleMesh
from tests.e2e.running_mesh import STDIO_TOOLS, start_mesh, stop_mesh
from tests.fakes.openai_upstream import FakeUpstream, Script

CALL = {"index": 0, "id": "call-1", "type": "function"}


@pytest.fixture(scope="module")
def mesh(built_console: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleMesh]:
    """A mesh of its own: one test kills its gateway."""
    running = start_mesh(tmp_path_factory.mktemp("chat"), env=STDIO_TOOLS)
    yield ConsoleMesh(running)
    stop_mesh(running)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream(mesh: ConsoleMesh) -> AsyncIterator[FakeUpstream]:
    """What answers for the model `scripted`."""
    async with scripted_model(mesh.mesh) as fake:
        yield fake


@pytest_asyncio.fixture(loop_scope="session")
async def opened(mesh: ConsoleMesh, visit: OpenVisit) -> Visit:
    return await visit(mesh.url)


@pytest_asyncio.fixture(loop_scope="session")
async def chat(opened: Visit, upstream: FakeUpstream) -> ChatPage:
    """A new conversation with `scripted`."""
    upstream.script = Script()
    page = ChatPage(opened.page)
    await page.open()
    return page


async def test_an_answer_is_streamed_with_its_figures_and_kept(chat: ChatPage) -> None:
    await chat.open("pocket")
    await chat.send("Hello")
    answer = await chat.finished()
    await expect(chat.text_of(answer)).to_contain_text("pocket")
    stats = answer.locator("[data-stats]")
    await expect(stats).to_contain_text("tokens/s")
    await expect(stats).to_contain_text("TTFT")
    await expect(stats).to_contain_text("prompt")
    said = await chat.text_of(answer).inner_text()
    await chat.page.reload()
    await expect(chat.text_of(chat.answers().last)).to_have_text(said)
    await expect(chat.page.get_by_role("heading", level=1)).to_have_text("Hello")


async def test_markdown_and_code_are_drawn(chat: ChatPage, upstream: FakeUpstream) -> None:
    text = "**bold** and\n\n```python\nprint(1)\n```\n\n| a |\n| - |\n| 1 |\n"
    upstream.script = Script(pieces=[text])
    await chat.send("Write")
    answer = await chat.finished()
    await expect(answer.locator("strong")).to_have_text("bold")
    await expect(answer.locator("pre .hljs-built_in")).to_have_text("print")
    await expect(answer.locator("td")).to_have_text("1")
    await expect(answer.get_by_role("button", name="Copy code")).to_be_visible()


async def test_a_reload_in_mid_answer_loses_and_repeats_nothing(
    chat: ChatPage, upstream: FakeUpstream
) -> None:
    goes_on = asyncio.Event()
    upstream.script = slow(100, goes_on=goes_on)
    await chat.send("Count")
    await expect(chat.text_of(chat.answers().last)).to_contain_text("word20 ")
    await chat.page.reload()
    await expect(chat.answers().last).to_have_attribute("data-state", "running")
    goes_on.set()
    answer = await chat.finished()
    assert (await chat.text_of(answer).inner_text()).split() == "".join(words(100)).split()
    assert len(upstream.requests[-1:]) == 1


async def test_the_death_of_the_gateway_loses_and_repeats_nothing(
    mesh: ConsoleMesh, opened: Visit, chat: ChatPage, upstream: FakeUpstream
) -> None:
    opened.allow("Failed to load resource|ERR_")
    goes_on = asyncio.Event()
    upstream.script = slow(100, goes_on=goes_on)
    await chat.send("Count")
    await expect(chat.text_of(chat.answers().last)).to_contain_text("word10 ")
    pid = await asyncio.to_thread(mesh.mesh.pid, "gateway")
    os.kill(pid, signal.SIGKILL)
    goes_on.set()
    answer = await chat.finished()
    assert (await chat.text_of(answer).inner_text()).split() == "".join(words(100)).split()


async def test_an_answer_goes_on_while_another_page_is_shown(
    chat: ChatPage, upstream: FakeUpstream
) -> None:
    goes_on = asyncio.Event()
    upstream.script = slow(60, goes_on=goes_on)
    await chat.send("Count")
    await expect(chat.text_of(chat.answers().last)).to_contain_text("word5 ")
    await chat.page.get_by_role("link", name="Models", exact=True).click()
    await expect(chat.page.get_by_role("heading", level=1)).to_have_text("Models")
    goes_on.set()
    await chat.page.go_back()
    answer = await chat.finished()
    assert (await chat.text_of(answer).inner_text()).split() == "".join(words(60)).split()


async def test_another_window_takes_an_answer_over(chat: ChatPage, upstream: FakeUpstream) -> None:
    upstream.script = slow(2000)
    await chat.send("Count")
    await expect(chat.text_of(chat.answers().last)).to_contain_text("word5 ")
    other = ChatPage(await chat.page.context.new_page())
    await other.page.goto(chat.page.url)
    await expect(chat.answers().last).to_have_attribute("data-state", "elsewhere")
    left_off = len((await chat.text_of(chat.answers().last).inner_text()).split())
    await expect(other.text_of(other.answers().last)).to_contain_text(f"word{left_off + 10} ")
    await other.page.get_by_role("button", name="Stop").click()
    answer = await other.finished(state="stopped")
    said = (await other.text_of(answer).inner_text()).split()
    assert said == "".join(words(len(said))).split()


async def test_stop_ends_the_generation_and_keeps_the_text(
    chat: ChatPage, upstream: FakeUpstream
) -> None:
    upstream.script = slow(1000)
    await chat.send("Count")
    await expect(chat.text_of(chat.answers().last)).to_contain_text("word5 ")
    await chat.page.get_by_role("button", name="Stop").click()
    answer = await chat.finished(state="stopped")
    await expect(chat.text_of(answer)).to_contain_text("word5 ")
    async with asyncio.timeout(60):
        while upstream.open:
            await asyncio.sleep(0.05)


async def test_branches_of_edits_and_of_answers(chat: ChatPage, upstream: FakeUpstream) -> None:
    upstream.script = Script(pieces=["first"])
    await chat.send("One")
    await chat.finished()
    upstream.script = Script(pieces=["second"])
    await chat.page.get_by_role("button", name="Generate another answer").click()
    await expect(chat.text_of(chat.answers().last)).to_have_text("second")
    answer = await chat.finished()
    await expect(answer.get_by_role("group", name="Branches")).to_contain_text("2 / 2")
    await answer.get_by_role("button", name="Previous branch").click()
    await expect(chat.text_of(chat.answers().last)).to_have_text("first")
    await chat.page.get_by_role("button", name="Edit your message").click()
    await chat.page.get_by_label("Edit your message").last.fill("Two")
    await chat.page.get_by_role("button", name="Send again").click()
    await expect(chat.asked()).to_contain_text(["Two"])
    await chat.finished()
    await chat.page.reload()
    await expect(chat.asked()).to_contain_text(["Two"])
    await chat.asked().get_by_role("button", name="Previous branch").click()
    await expect(chat.text_of(chat.answers().last)).to_have_text("first")


async def test_two_models_are_compared(chat: ChatPage, upstream: FakeUpstream) -> None:
    upstream.script = Script(pieces=["from afar"])
    await chat.page.get_by_role("button", name="Compare two models").click()
    await chat.page.get_by_label("Second model", exact=True).select_option("pocket")
    await chat.send("Hello")
    left, right = await chat.finished(0), await chat.finished(1)
    await expect(chat.text_of(left)).to_have_text("from afar")
    await expect(right).to_have_accessible_name("Answer of pocket@1")
    await chat.page.get_by_role("button", name="Go on with the second model only").click()
    await expect(chat.page.locator("[data-lane='1']")).to_have_count(0)
    await expect(chat.answers()).to_have_accessible_name("Answer of pocket@1")
    await chat.send("And?")
    await expect(chat.answers()).to_have_count(2)
    await expect(await chat.finished()).to_have_accessible_name("Answer of pocket@1")


async def test_the_settings_are_sent(chat: ChatPage, upstream: FakeUpstream) -> None:
    await chat.show_settings()
    panel = chat.page.get_by_label("Settings of the conversation")
    await panel.get_by_label("System prompt").fill("Be brief.")
    await panel.get_by_label("Temperature").fill("0.5")
    await panel.get_by_label("Seed").fill("7")
    await chat.send("Hello")
    await chat.finished()
    sent = upstream.requests[-1]
    assert (sent["temperature"], sent["seed"]) == (0.5, 7)
    assert sent["messages"][0]["content"] == "Be brief."
    await panel.get_by_label("Temperature").fill("11")
    await expect(panel.get_by_text("From 0 to 10.")).to_be_visible()
    await chat.composer.fill("More")
    await expect(chat.page.get_by_role("button", name="Send")).to_be_disabled()


async def test_an_answer_satisfies_its_schema(chat: ChatPage) -> None:
    await chat.open("pocket")
    await chat.open_section("Structured output")
    panel = chat.page.get_by_label("Settings of the conversation")
    await panel.get_by_label("Output").select_option("schema")
    editor = panel.get_by_label("JSON Schema")
    await editor.fill('{"type": "objekt"}')
    await expect(panel.get_by_text('there is no type "objekt"')).to_be_visible()
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    await editor.fill(json.dumps({**schema, "additionalProperties": False}))
    await chat.send("Is it on?")
    answer = await chat.finished()
    await expect(answer.get_by_text("Satisfies the schema")).to_be_visible()
    assert set(json.loads(await answer.locator("[data-json]").inner_text())) == {"on"}


async def test_reasoning_is_folded(chat: ChatPage, upstream: FakeUpstream) -> None:
    upstream.script = Script(reasoning=["let me ", "think"], pieces=["So."])
    await chat.send("Why?")
    answer = await chat.finished()
    await expect(answer.get_by_text("let me think")).to_be_hidden()
    await answer.get_by_text("Reasoning").click()
    await expect(answer.get_by_text("let me think")).to_be_visible()


async def test_an_error_says_why_and_can_be_tried_again(
    opened: Visit, chat: ChatPage, upstream: FakeUpstream
) -> None:
    upstream.script = Script(status=400)
    await chat.send("Hello")
    failed = await chat.finished(state="failed")
    await expect(failed.get_by_role("alert")).to_contain_text("it does not want to")
    upstream.script = Script(pieces=["now"])
    await failed.get_by_role("button", name="Try again").click()
    await expect(chat.text_of(await chat.finished())).to_have_text("now")


async def test_tools_are_called_once_they_are_allowed(
    mesh: ConsoleMesh, chat: ChatPage, upstream: FakeUpstream
) -> None:
    await add_tools(mesh.mesh, "fake")
    await chat.open_section("Tools")
    await chat.page.get_by_label("fake__echo", exact=True).check()
    await chat.page.get_by_label("fake__add", exact=True).check()

    async def ask(name: str, arguments: str, text: str) -> None:
        function = {"name": name, "arguments": arguments}
        calls = [{**CALL, "function": function}]
        upstream.script = Script(pieces=[], calls=calls, finish_reason="tool_calls")
        await chat.send(text)

    dialog = chat.page.get_by_role("dialog", name="May the model call this tool?")
    await ask("fake__echo", '{"text": "ping"}', "Deny this")
    await expect(dialog).to_contain_text('"text": "ping"')
    upstream.script = Script(pieces=["It was denied."])
    await dialog.get_by_role("button", name="Deny").click()
    await expect(chat.text_of(chat.answers().last)).to_have_text("It was denied.")
    assert upstream.requests[-1]["messages"][-1]["content"] == "The user denied this call."

    await ask("fake__echo", '{"text": "pong"}', "Allow this")
    await expect(dialog).to_contain_text("pong")
    await chat.page.reload()
    await expect(dialog).to_contain_text("pong")
    upstream.script = Script(pieces=["It said pong."])
    await dialog.get_by_role("button", name="Allow once").click()
    await expect(chat.text_of(chat.answers().last)).to_have_text("It said pong.")
    assert upstream.requests[-1]["messages"][-1]["content"] == "pong"
    call = chat.page.locator("[data-call='done']")
    await call.locator("summary").click()
    await expect(call).to_contain_text("pong")

    await ask("fake__add", '{"a": 2, "b": 3}', "Always")
    await expect(dialog).to_contain_text('"a": 2')
    upstream.script = Script(pieces=["Five."])
    await dialog.get_by_role("button", name="Always in this chat").click()
    await expect(chat.text_of(chat.answers().last)).to_have_text("Five.")
    await ask("fake__add", '{"a": 4, "b": 5}', "Again")
    # It goes on calling, unasked, until the limit of answers in a row.
    more = chat.page.get_by_role("button", name="Continue with the results")
    await expect(more).to_be_visible(timeout=FINISHED_MS)
    await expect(chat.page.locator("[data-call='done']")).to_have_count(2 + 9)
    await expect(dialog).to_be_hidden()
    assert any(each["content"] == "9" for each in upstream.requests[-1]["messages"])


async def test_hostile_output_is_inert(chat: ChatPage, upstream: FakeUpstream) -> None:
    hostile = "<img src=x onerror=alert(1)> [x](javascript:alert(2)) ![y](http://127.0.0.2:9/y.png)"
    upstream.script = Script(
        reasoning=[hostile], pieces=[hostile, "\n\n<script>alert(3)</script>\n"]
    )
    await chat.send(hostile)
    answer = await chat.finished()
    await answer.get_by_text("Reasoning").click()
    await expect(answer).to_contain_text("<script>alert(3)</script>")
    await expect(answer.locator("img, script, iframe")).to_have_count(0)
    await expect(answer.locator("a[href^='javascript']")).to_have_count(0)


async def test_conversations_are_renamed_exported_and_deleted(
    mesh: ConsoleMesh, chat: ChatPage, upstream: FakeUpstream, tmp_path: Path
) -> None:
    upstream.script = Script(pieces=["kept"])
    await chat.send("Keep me")
    await chat.finished()
    page = chat.page
    listed = page.get_by_role("navigation", name="Conversations")

    async def choose(action: str, title: str) -> None:
        await listed.get_by_role("button", name=f"Actions of {title}").click()
        await page.get_by_role("menuitem", name=action).click()

    await choose("Rename", "Keep me")
    await page.get_by_label("Title").fill("Renamed")
    await page.get_by_role("button", name="Rename").click()
    await expect(listed.get_by_role("link", name="Renamed")).to_be_visible()
    async with page.expect_download() as download:
        await choose("Export as Markdown", "Renamed")
    file = tmp_path / "conversation.md"
    await (await download.value).save_as(file)
    assert "kept" in file.read_text()
    assert file.read_text().startswith("# Renamed")
    await choose("Delete", "Renamed")
    await page.get_by_role("button", name="Delete").click()
    await expect(listed.get_by_role("link", name="Renamed")).to_have_count(0)
    await expect(page).to_have_url(f"{mesh.url}/chat")


async def test_the_keyboard_is_enough(chat: ChatPage, upstream: FakeUpstream) -> None:
    page = chat.page
    await page.locator("h1").click()
    await page.keyboard.press("/")
    await expect(chat.composer).to_be_focused()
    await page.keyboard.type("one")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("two")
    upstream.script = slow(1000)
    await page.keyboard.press("Enter")
    await expect(chat.asked().last).to_contain_text("one\ntwo")
    await expect(chat.text_of(chat.answers().last)).to_contain_text("word2 ")
    await chat.composer.focus()
    await page.keyboard.press("Escape")
    await chat.finished(state="stopped")
    await page.keyboard.press("Alt+N")
    await expect(chat.answers()).to_have_count(0)


async def test_screen_readers_are_told_of_ends_and_not_of_words(
    chat: ChatPage, upstream: FakeUpstream
) -> None:
    said: list[str] = []
    await chat.page.expose_function("saidAloud", lambda text: said.append(text))
    await chat.page.evaluate(
        """() => new MutationObserver(() => window.saidAloud(
             document.querySelector('[data-announcer]')?.textContent ?? ''))
           .observe(document.body, {subtree: true, childList: true, characterData: true})"""
    )
    upstream.script = slow(40)
    await chat.send("Count")
    await chat.finished()
    await expect(chat.page.locator("[data-announcer]")).to_contain_text("The answer is complete.")
    assert len({text for text in said if text}) <= 3


@pytest.mark.parametrize("width", [360, 1400])
async def test_it_is_accessible(
    mesh: ConsoleMesh, visit: OpenVisit, upstream: FakeUpstream, width: int
) -> None:
    upstream.script = Script(
        reasoning=["hm"], pieces=["# One\n\n- **two**\n\n```python\nprint(3)  # four\n```\n"]
    )
    page = (await visit(mesh.url, viewport={"width": width, "height": 800})).page
    chat = ChatPage(page)
    await chat.open()
    await assert_accessible(page)
    await chat.send("Hello")
    answer = await chat.finished()
    await expect(answer.locator("pre .hljs-comment")).to_be_visible()
    await assert_accessible(page)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await chat.show_settings()
    await assert_accessible(page)


async def test_the_first_paint_is_small(mesh: ConsoleMesh, page: Page) -> None:
    """What the start page needs before it can be used, by the sizes of the gzipped files."""
    static = Path(__file__).parents[2] / "gateway" / "mlxmesh_gateway" / "console" / "static"
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto("/")
    await page.get_by_label("Message", exact=True).wait_for()
    paths = {url.split("/", 3)[3].partition("?")[0] or "index.html" for url in asked}
    files = {path: static / f"{path}.gz" for path in paths}
    sizes = {path: file.stat().st_size for path, file in files.items() if file.is_file()}
    assert any(path.endswith(".css") for path in sizes)
    assert sum(sizes.values()) <= 200 * 1024, sizes
