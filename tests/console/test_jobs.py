"""The page of jobs, and the page of one job."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.console.accessibility import assert_accessible
from tests.console.conftest import OpenVisit
from tests.console.meshes import ConsoleMesh

STARTED_MS = 120_000
"""The first job starts the jobs service and a worker."""


async def submit(page: Page, *, prompt: str = "Once upon a time", tokens: int = 16) -> str:
    """Submits a generation; returns its id, on its page."""
    await page.goto("/jobs")
    await page.get_by_role("button", name="New job").click()
    dialog = page.get_by_role("dialog", name="Submit a job")
    await dialog.get_by_label("Model").select_option("pocket")
    await dialog.get_by_label("Prompt").fill(prompt)
    await dialog.get_by_label("Tokens at most").fill(str(tokens))
    await dialog.get_by_role("button", name="Submit job").click()
    await expect(page).to_have_url(re.compile("/jobs/[^?]+$"), timeout=STARTED_MS)
    return page.url.rpartition("/")[2]


async def call(page: Page, method: str, body: dict[str, Any]) -> Any:
    """Calls JobService as the page's user."""
    answer = await page.request.post(f"/mlxmesh.job.v1.JobService/{method}", data=body)
    assert answer.ok, await answer.text()
    return await answer.json()


@asynccontextmanager
async def paused(page: Page, queue: str) -> AsyncGenerator[Callable[[], Awaitable[Any]]]:
    """No job of the queue starts until the yielded function is called."""

    async def resume() -> None:
        await call(page, "SetQueue", {"name": queue, "settings": {}})

    await call(page, "SetQueue", {"name": queue, "settings": {"paused": True}})
    try:
        yield resume
    finally:
        await resume()


async def test_a_job_from_its_form_to_its_result(page: Page) -> None:
    await page.goto("/jobs")
    await expect(page.get_by_role("heading", level=1, name="Jobs")).to_be_visible()
    await assert_accessible(page)
    job_id = await submit(page)
    main = page.get_by_role("main")
    await expect(main.get_by_text("completed").first).to_be_visible(timeout=STARTED_MS)
    await expect(page.get_by_label("Output")).not_to_be_empty()
    attempts = page.get_by_role("table", name="Attempts that have ended")
    await expect(attempts.get_by_role("row")).to_have_count(2)
    await expect(page.get_by_text("Once upon a time")).to_be_visible()
    await expect(page.get_by_role("button", name="Cancel job")).to_have_count(0)
    await assert_accessible(page)
    await page.get_by_role("link", name="All jobs").click()
    await expect(page.get_by_role("row", name=job_id)).to_contain_text("completed")


async def test_the_list_follows_what_happens_elsewhere(page: Page) -> None:
    other = await page.context.new_page()
    await submit(page)
    await other.goto("/jobs")
    before = await other.get_by_role("table", name="Jobs").get_by_role("row").count()
    job_id = await submit(page)
    row = other.get_by_role("row", name=job_id)
    await expect(row).to_contain_text("completed", timeout=60_000)
    assert await other.get_by_role("table", name="Jobs").get_by_role("row").count() > before
    await other.close()


async def test_a_job_is_watched_cancelled_and_run_again(page: Page) -> None:
    main = page.get_by_role("main")
    async with paused(page, "generation") as resume:
        await submit(page)
        await expect(main.get_by_text("waiting", exact=True)).to_be_visible()
        await expect(page.get_by_text("Nothing yet.")).to_be_visible()
        await page.get_by_role("button", name="Cancel job").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel job").click()
        await expect(main.get_by_text("cancelled", exact=True).first).to_be_visible()
        await page.get_by_role("button", name="Run again").click()
        await expect(main.get_by_text("waiting", exact=True)).to_be_visible(timeout=30_000)
        await resume()
        await expect(page.get_by_label("Output")).not_to_be_empty(timeout=60_000)
        await expect(main.get_by_text("completed").first).to_be_visible(timeout=60_000)


async def test_filters_and_dead_letters(page: Page) -> None:
    job_id = await submit(page)
    await page.goto("/jobs")
    row = page.get_by_role("row", name=job_id)
    await expect(row).to_be_visible()
    await page.get_by_role("button", name="Dead letters").click()
    await expect(page.get_by_label("State")).to_have_value("6")
    await expect(row).to_have_count(0)
    await page.get_by_role("button", name="Show all").click()
    await expect(row).to_be_visible()
    await page.get_by_role("textbox", name="Queue").fill("nothing")
    await page.get_by_role("textbox", name="Queue").press("Enter")
    await expect(page.get_by_text("No such jobs")).to_be_visible()
    await page.get_by_role("button", name="Show all").click()
    await page.get_by_label("Kind").select_option(label="generation")
    await expect(row).to_be_visible()


async def test_a_queue_is_paused_and_opened(page: Page) -> None:
    await submit(page)
    await page.goto("/jobs?tab=queues")
    row = page.get_by_role("row", name="openai_http")
    await row.get_by_role("button", name="Pause openai_http").click()
    await expect(row).to_contain_text("paused")
    await row.get_by_role("button", name="Limits of openai_http").click()
    dialog = page.get_by_role("dialog", name="Queue openai_http")
    await dialog.get_by_label("Paused").uncheck()
    await dialog.get_by_label("Jobs at once").fill("7")
    await dialog.get_by_role("button", name="Save").click()
    await expect(row).to_contain_text("open")
    await assert_accessible(page)
    await page.get_by_role("tab", name="Workers").click()
    await expect(page.get_by_text("slots are busy").first).to_be_visible()
    await assert_accessible(page)


@pytest.fixture
def batch_file(tmp_path: Path) -> Path:
    """Three requests of a batch."""
    lines = [
        json.dumps(
            {
                "custom_id": f"r-{number}",
                "method": "POST",
                "url": "/v1/completions",
                "body": {"model": "pocket", "prompt": "Hi", "max_tokens": 3},
            }
        )
        for number in range(3)
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


async def test_a_batch_from_its_file_to_its_results(page: Page, batch_file: Path) -> None:
    await page.goto("/jobs?tab=files")
    await expect(page.get_by_role("button", name="Upload a batch file")).to_be_visible()
    await page.get_by_label("File for batches").set_input_files(batch_file)
    row = page.get_by_role("row", name="requests.jsonl")
    await expect(row).to_contain_text("batch input", timeout=STARTED_MS)
    await assert_accessible(page)
    async with page.expect_download() as waiting:
        await row.get_by_role("button", name="Download requests.jsonl").click()
    assert Path(await (await waiting.value).path()).read_text() == batch_file.read_text()
    await page.get_by_role("button", name="New job").click()
    dialog = page.get_by_role("dialog", name="Submit a job")
    await dialog.get_by_label("Kind").select_option("batch")
    await dialog.get_by_label("Requests are for").select_option("/v1/completions")
    await expect(dialog.get_by_label("File")).to_contain_text("requests.jsonl")
    await dialog.get_by_role("button", name="Submit job").click()
    await expect(page.get_by_text("3 of 3 requests completed, 0 failed")).to_be_visible(
        timeout=60_000
    )
    async with page.expect_download() as waiting:
        await page.get_by_role("button", name=re.compile("Download .*results.jsonl")).click()
    results = Path(await (await waiting.value).path()).read_text().splitlines()
    assert [json.loads(line)["custom_id"] for line in results] == ["r-0", "r-1", "r-2"]
    await page.goto("/jobs?tab=files")
    await row.get_by_role("button", name="Delete requests.jsonl").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete file").click()
    await expect(row).to_have_count(0)


async def test_a_job_that_is_not_there_says_so(open_mesh: ConsoleMesh, visit: OpenVisit) -> None:
    opened = await visit(open_mesh.url)
    opened.allow("status of 404")
    page = opened.page
    await submit(page)
    await page.goto("/jobs/no-such-job")
    await expect(page.get_by_text("This job cannot be shown")).to_be_visible()
