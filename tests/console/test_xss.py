"""Hostile texts wherever a page shows one: they stay text."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from mlxmesh.job.v1 import job_pb2, job_pb2_grpc
from mlxmesh.model.v1 import ensemble_pb2, ensemble_pb2_grpc
from mlxmesh_client import MeshClient, MeshError
from tests.console.browsing import Visit
from tests.console.conftest import OpenVisit
from tests.console.hostile_dom import assert_harmless, trap
from tests.console.meshes import ROOT, ConsoleMesh
from tests.console.payloads import GROUPS, PAYLOADS
from tests.e2e.running_mesh import mlxmesh
from tests.fakes.openai_upstream import MODEL, FakeUpstream, Script, running_upstream

HOSTILE = "hostile"
"""The model that answers what a test tells it."""
TEXTS_SERVER = ROOT / "tests" / "fakes" / "mcp" / "texts_server.py"
PAGES = (
    *("/chat", "/models", "/rollouts", "/rollouts?tab=ensembles", "/experiments", "/mesh"),
    *("/requests", "/jobs", "/tools", "/access", "/system", "/events"),
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream(open_mesh: ConsoleMesh) -> AsyncIterator[FakeUpstream]:
    """What answers for the model `hostile`."""
    async with running_upstream() as fake:
        add = ("models", "add-upstream", HOSTILE, "--url", fake.url, "--model", MODEL)
        takes = ("--takes", "chat", "--takes", "completion", "--takes", "tools")
        added = await asyncio.to_thread(open_mesh.mesh.command, *add, *takes)
        assert added.returncode == 0, added.stderr
        yield fake


@pytest_asyncio.fixture(loop_scope="session")
async def hostile(open_mesh: ConsoleMesh, visit: OpenVisit) -> Visit:
    """A visit in which the payloads' function exists."""
    opened = await visit(open_mesh.url)
    await trap(opened)
    return opened


async def ask(page: Page, text: str) -> None:
    """Sends a message to the hostile model, and waits for its whole answer."""
    await page.goto("/chat")
    await page.get_by_label("Model", exact=True).select_option(HOSTILE)
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send").click()
    answer = page.locator('article[data-role="assistant"]').last
    await expect(answer).not_to_have_attribute("data-state", "running")


@pytest.mark.parametrize("group", GROUPS)
async def test_answers_of_a_model_stay_text(
    hostile: Visit, upstream: FakeUpstream, group: str
) -> None:
    page = hostile.page
    upstream.script = Script(pieces=[f"{payload}\n\n" for payload in GROUPS[group]])
    await ask(page, f"{group}: {GROUPS[group][0]}")
    await assert_harmless(page)
    answer = page.locator('article[data-role="assistant"]').last
    # What is told was shown, and so the test has seen the payloads' end.
    assert len(await answer.inner_text()) > 100


@pytest.mark.parametrize("half", [0, 1])
async def test_each_payload_alone_in_one_conversation(
    hostile: Visit, upstream: FakeUpstream, half: int
) -> None:
    """What a payload leaves open ends with its message."""
    page = hostile.page
    await ask(page, "begin")
    for number, payload in enumerate(PAYLOADS[half::8]):
        upstream.script = Script(pieces=[payload[:9], payload[9:]], reasoning=[payload])
        await page.get_by_label("Message", exact=True).fill(payload)
        await page.keyboard.press("Enter")
        answers = page.locator('article[data-role="assistant"]')
        await expect(answers).to_have_count(number + 2)
        await expect(answers.last).to_have_attribute("data-state", "done")
    await assert_harmless(page)
    await page.reload()
    await expect(page.locator('article[data-role="assistant"]').last).to_be_visible()
    await assert_harmless(page)


async def test_errors_of_an_upstream_stay_text(hostile: Visit, upstream: FakeUpstream) -> None:
    text = " ".join(GROUPS["handlers"])
    upstream.script = Script(status=400, body={"error": {"message": text, "type": text}})
    hostile.allow("status of 400")
    await ask(hostile.page, "fail")
    await assert_harmless(hostile.page)


async def test_tool_calls_stay_text(hostile: Visit, upstream: FakeUpstream) -> None:
    payload = GROUPS["handlers"][0]
    arguments = json.dumps({payload: list(PAYLOADS[:20])})
    call = {"index": 0, "id": payload, "function": {"name": payload, "arguments": arguments}}
    upstream.script = Script(pieces=(), calls=[call], finish_reason="tool_calls")
    await ask(hostile.page, "call")
    await assert_harmless(hostile.page)


async def set_hostile_texts(mesh: ConsoleMesh, payloads: Sequence[str]) -> None:
    """Puts payloads wherever the API takes a text, one after another."""
    async with grpc.aio.insecure_channel(mesh.mesh.address) as channel:
        ensembles = ensemble_pb2_grpc.EnsembleServiceStub(channel)
        jobs = job_pb2_grpc.JobServiceStub(channel)
        for number, payload in enumerate(payloads):
            fallback = ensemble_pb2.FallbackRecipe(models=["pocket"])
            recipe = ensemble_pb2.EnsembleRecipe(description=payload, fallback=fallback)
            await ensembles.SetEnsemble(
                ensemble_pb2.SetEnsembleRequest(name=f"text-{number}", recipe=recipe)
            )
        for payload in payloads[:5]:
            generation = GenerateRequest(model="no-such-model", prompt=payload)
            generation.labels["user"] = payload
            await jobs.SubmitJob(job_pb2.SubmitJobRequest(generation=generation))
    async with MeshClient(mesh.mesh.address) as client:
        for payload in payloads:
            with suppress(MeshError):
                await client.complete("no-such-model", prompt=payload, labels={"user": payload})


async def test_texts_of_the_api_stay_text_on_every_page(
    hostile: Visit, upstream: FakeUpstream, open_mesh: ConsoleMesh
) -> None:
    payloads = [payload for payload in PAYLOADS if payload.isprintable()][::4]
    await set_hostile_texts(open_mesh, payloads)
    page = hostile.page
    for path in PAGES:
        await page.goto(path)
        await expect(page.get_by_role("heading", level=1).first).to_be_attached()
        await page.wait_for_timeout(500)
        await assert_harmless(page)
    await page.goto("/rollouts?tab=ensembles")
    await expect(page.get_by_text(payloads[0], exact=True)).to_be_visible()


async def test_descriptions_and_results_of_tools_stay_text(
    hostile: Visit, open_mesh: ConsoleMesh, tmp_path: Path
) -> None:
    texts = [text for text in PAYLOADS if text.isprintable()][::6]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    server = (sys.executable, str(TEXTS_SERVER), str(tmp_path / "texts.json"))
    add = ("mcp", "add", "texts", "--approval", "always")
    # The options of the data directory come before the server's command.
    where = ("--data-dir", str(open_mesh.mesh.data_dir))
    added = await asyncio.to_thread(mlxmesh, *add, *where, "--", *server)
    assert added.returncode == 0, added.stderr
    page = hostile.page
    await page.goto("/tools?tab=tools")
    await expect(page.get_by_role("button", name="Try texts__say-0", exact=True)).to_be_visible()
    await assert_harmless(page)
    for number in range(0, len(texts), 6):
        name = f"Try texts__say-{number}"
        await page.get_by_label("Search tools").fill(f"say-{number}")
        await page.get_by_role("button", name=name, exact=True).click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_role("button", name="Approve and call").click()
        await expect(dialog.get_by_role("status")).to_contain_text("Ok")
        await assert_harmless(page)
        await page.keyboard.press("Escape")
    await page.goto("/tools?tab=calls")
    await expect(page.get_by_role("table", name="Calls of tools")).to_be_visible()
    await assert_harmless(page)


@pytest.mark.parametrize(
    "payload",
    [
        "javascript:pwned()",
        "//attacker.example",
        "\\\\attacker.example",
        "https://attacker.example/",
    ],
)
async def test_addresses_in_the_query_lead_nowhere(hostile: Visit, payload: str) -> None:
    """A link to the console with a hostile parameter does not leave it."""
    page, text = hostile.page, quote(payload)
    for path in (f"/sign-in?next={text}", f"/rollouts?tab={text}", f"/requests?request_id={text}"):
        await page.goto(path)
        await page.wait_for_timeout(500)
        assert page.url.startswith(f"{hostile.origin}/")
        await assert_harmless(page)
