"""The console's pages with a large mesh: frames per second and memory of a real browser.

    .venv/bin/python -m tests.bench.bench_console [--seconds 20] [--json FILE]

A scripted gateway (tests/fakes/live_gateway.py) serves the built console and tells of 50 engines
that all change every 200 ms, and of 1,000 requests with 40 changes each time. Headless Chromium
shows the page and is scrolled meanwhile. Frames are counted by requestAnimationFrame; memory is the
heap of JavaScript by the debugger's protocol, and what the page's process has for itself alone.
Beside them: what the record of a request costs a gateway.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil
from playwright.async_api import Browser, CDPSession, async_playwright

from mlxmesh_gateway.forwarding.request_log import RequestLog
from mlxmesh_gateway.forwarding.used import Used
from tests.bench.results import Findings, Result, Row, run_alone
from tests.console.browsing import launch_chromium
from tests.console.meshes import build_console
from tests.fakes.live_gateway import LiveGateway

MIN_FRAMES_PER_SECOND, MAX_BYTES = 30, 150 * 10**6
MAX_RECORD_US = 20.0
SECONDS = 20.0
PAGES = ("mesh", "requests")
_MB = 10**6
# Returns the time of every frame, in milliseconds.
_FRAMES = """
(seconds) => new Promise((resolve) => {
  const times = [];
  const begin = performance.now();
  const scrolled = () => [...document.querySelectorAll('[role=table]')].at(0);
  const frame = (now) => {
    times.push(now);
    const table = scrolled();
    if (table) table.scrollTop = (table.scrollTop + 3) % Math.max(1, table.scrollHeight);
    if (now - begin < seconds * 1000) requestAnimationFrame(frame);
    else resolve(times);
  };
  requestAnimationFrame(frame);
})
"""


@dataclass(frozen=True)
class Shown:
    """What one page needed."""

    page: str
    frames_per_second: float
    slowest_second: float
    """Frames in the second with the fewest."""
    heap_bytes: float
    own_bytes: int
    """Memory of the process that it shares with no other one."""
    cpu_share: float
    """Of a core, that the page's main thread used."""
    nodes: int


async def pages(seconds: float) -> list[Shown]:
    """Each page by itself, in a browser of its own."""
    gateway = LiveGateway()
    shown: list[Shown] = []
    async with gateway.running() as origin, async_playwright() as playwright:
        for name in PAGES:
            browser = await launch_chromium(playwright)
            try:
                shown.append(await _page(browser, origin, name, seconds))
            finally:
                await browser.close()
    return shown


async def _page(browser: Browser, origin: str, name: str, seconds: float) -> Shown:
    before = _renderers()
    page = await browser.new_page(viewport={"width": 1440, "height": 900})
    await page.goto(f"{origin}/{name}")
    await page.get_by_role("table").first.wait_for()
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable")
    busy_s = (await _metrics(session))["ThreadTime"]
    times = await page.evaluate(_FRAMES, seconds)
    cpu_share = ((await _metrics(session))["ThreadTime"] - busy_s) / seconds
    await session.send("HeapProfiler.collectGarbage")
    metrics = await _metrics(session)
    spans = [int((each - times[0]) / 1000) for each in times]
    whole = [spans.count(second) for second in range(int(seconds))]
    return Shown(
        page=name,
        frames_per_second=(len(times) - 1) / ((times[-1] - times[0]) / 1000),
        slowest_second=min(whole),
        heap_bytes=metrics["JSHeapUsedSize"],
        own_bytes=_own_bytes(_renderers() - before),
        cpu_share=cpu_share,
        nodes=int(metrics["Nodes"]),
    )


async def _metrics(session: CDPSession) -> dict[str, float]:
    found = await session.send("Performance.getMetrics")
    return {one["name"]: one["value"] for one in found["metrics"]}


def _renderers() -> set[int]:
    """Chromium's processes that show pages."""
    children = psutil.Process().children(recursive=True)
    return {one.pid for one in children if "--type=renderer" in _command(one)}


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _own_bytes(pids: set[int]) -> int:
    return sum(psutil.Process(pid).memory_full_info().uss for pid in pids)


def record_us(rounds: int = 5, requests: int = 20_000) -> float:
    """What the record of one request costs, in microseconds of processor time: the median."""
    log = RequestLog(2000)
    found: list[float] = []
    for _ in range(rounds):
        begin = time.process_time()
        for _ in range(requests):
            used = Used()
            with log.recorded(used, owner="user:a", protocol="grpc", method="/s/M", model="m"):
                pass
        found.append((time.process_time() - begin) / requests * 1e6)
    return statistics.median(found)


def row(one: Shown) -> Row:
    """For people."""
    return {
        "page": one.page,
        "frames/s": one.frames_per_second,
        "slowest second": one.slowest_second,
        "heap, MB": one.heap_bytes / _MB,
        "process, MB": one.own_bytes / _MB,
        "main thread, % of a core": one.cpu_share * 100,
        "DOM nodes": one.nodes,
    }


def verdicts(shown: Sequence[Shown]) -> Iterator[Result]:
    """Each page against the targets."""
    for one in shown:
        name, frames = f"page {one.page}", one.frames_per_second
        yield Result(f"{name}, frames", frames, MIN_FRAMES_PER_SECOND, "/s")
        yield Result(f"{name}, heap", one.heap_bytes / _MB, MAX_BYTES / _MB, "MB", at_least=False)


def measure(rounds: int, seconds: Sequence[float]) -> Findings:
    """Both pages, and the record of a request."""
    build_console()
    shown = [one for _ in range(rounds) for one in asyncio.run(pages(seconds[0]))]
    cost_us = record_us()
    cost = Result("record of a request", cost_us, MAX_RECORD_US, "us", at_least=False)
    return Findings([*verdicts(shown), cost], {"console": [row(one) for one in shown]})


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=1, seconds=(SECONDS,))
