"""`make console-pictures`: the console in Chromium, on a mesh that runs and has work."""

import asyncio
import io
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.async_api import Browser, Page, async_playwright

from mlxmesh.model.v1.split_pb2 import SplitArm
from mlxmesh_client import MeshClient, MeshError
from mlxmesh_launcher.forked import fork_services
from mlxmesh_launcher.mesh import Mesh
from mlxmesh_launcher.options import MeshOptions
from mlxmesh_shared.process.forked import ForkedProcess
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.settings import MeshSettings, load_settings

IMAGES = Path(__file__).resolve().parent
POCKET = IMAGES.parents[1] / "deploy" / "demo-model" / "pocket"
SIZES = ((360, 740), (768, 900), (1280, 800))
COLORS = 96
TRAFFIC_S = 20.0
CALLERS = 4
Scheme = Literal["light", "dark"]


@dataclass(frozen=True)
class Shot:
    """One page."""

    name: str
    path: str
    scheme: Scheme = "light"
    top: int = 0
    """How far it is scrolled, in pixels."""


SHOTS = (
    Shot("rollout", "/rollouts/stories", "dark"),
    Shot("experiment", "/experiments/tales", top=420),
    Shot("models", "/models"),
    Shot("mesh", "/mesh", "dark"),
    Shot("requests", "/requests"),
)


async def pictures(forked: Mapping[str, ForkedProcess]) -> None:
    """Starts a mesh, gives it work, and takes a picture of each page at each width."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-pictures-") as directory:
        registry = open_registry(load_settings(MeshSettings, ["--data-dir", directory]))
        options = MeshOptions(Path(directory), grpc_port=0, http_port=0, replicas=2, stop_grace_s=5)
        mesh = Mesh(options, registry, forked)
        try:
            await mesh.start(lambda _: None)
            await _take_all(mesh, Path(directory))
        finally:
            await mesh.stop(lambda _: None)
            await registry.close()


async def _take_all(mesh: Mesh, directory: Path) -> None:
    async with MeshClient(mesh.gateway) as client, _browser() as browser:
        await _prepare(client, directory)
        work = [asyncio.create_task(_keep_asking(client, number)) for number in range(CALLERS)]
        try:
            await asyncio.sleep(TRAFFIC_S)
            await _chat(browser, f"http://{mesh.http}")
            for shot in SHOTS:
                await _take(browser, f"http://{mesh.http}", shot)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)


@asynccontextmanager
async def _browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        await browser.close()


async def _prepare(client: MeshClient, directory: Path) -> None:
    """Two models with two versions each, a rollout of one and an experiment with the other."""
    for name in ("storyteller", "narrator"):
        for number in (1, 2):
            copy = directory / "versions" / f"{name}-{number}"
            shutil.copytree(POCKET, copy)
            config = json.loads((copy / "config.json").read_text())
            (copy / "config.json").write_text(json.dumps({**config, "comment": str(number)}))
            await client.register_model(name=name, directory=str(copy))
        async for _ in client.load_model(f"{name}@1"):
            pass
    await client.start_rollout(
        "storyteller",
        to_version=2,
        steps=[10, 50, 100],
        hold_s=40,
        min_requests=5,
        guards=["error_rate<1%", "ttft_p95<5x", "tokens_per_request>2"],
        rollout_id="stories",
    )
    arms = [
        SplitArm(arm=arm, version=version, weight=50)
        for arm, version in (("control", 1), ("new", 2))
    ]
    await client.start_experiment("narrator", arms=arms, experiment_id="tales")


async def _keep_asking(client: MeshClient, number: int) -> None:
    """Asks the models in turns, each time as another session."""
    for turn in range(1_000_000):
        name = ("storyteller", "narrator", "pocket")[(turn + number) % 3]
        with suppress(MeshError):
            await client.complete(
                name,
                prompt="Once upon a time",
                max_tokens=8 + turn % 24,
                session_id=f"reader-{number}-{turn}",
            )
        await asyncio.sleep(0.1)


async def _chat(browser: Browser, url: str) -> None:
    for scheme, width, height in _sizes("light"):
        page = await _page(browser, scheme, width, height)
        await page.goto(f"{url}/chat")
        await page.get_by_label("Message", exact=True).fill("Tell me a story about the sea.")
        await page.keyboard.press("Enter")
        answer = page.locator('article[data-role="assistant"][data-state="done"]')
        await answer.wait_for(timeout=60_000)
        await _save(page, "chat", width)


async def _take(browser: Browser, url: str, shot: Shot) -> None:
    for scheme, width, height in _sizes(shot.scheme):
        page = await _page(browser, scheme, width, height)
        await page.goto(f"{url}{shot.path}")
        await page.wait_for_timeout(3000)
        await page.evaluate("(top) => document.querySelector('main').scrollTo(0, top)", shot.top)
        await page.wait_for_timeout(300)
        await _save(page, shot.name, width)


def _sizes(scheme: Scheme) -> list[tuple[Scheme, int, int]]:
    return [(scheme, width, height) for width, height in SIZES]


async def _page(browser: Browser, scheme: Scheme, width: int, height: int) -> Page:
    return await browser.new_page(
        color_scheme=scheme,
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
    )


async def _save(page: Page, name: str, width: int) -> None:
    """As a small PNG with a palette."""
    picture = Image.open(io.BytesIO(await page.screenshot()))
    small = picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    small.save(IMAGES / f"console-{name}-{width}.png", optimize=True)
    await page.close()


if __name__ == "__main__":
    asyncio.run(pictures(fork_services()))
