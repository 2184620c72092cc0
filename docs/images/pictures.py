"""`make pictures`: screens for the documentation, taken from a mesh that runs and has work."""

import asyncio
import re
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from mlxmesh_cli.commands.live_view import MeshState
from mlxmesh_cli.commands.observe import complete_trace
from mlxmesh_cli.screen.timeline import timeline
from mlxmesh_cli.screen.top_view import frame
from mlxmesh_client import MeshClient, MeshError
from mlxmesh_launcher.forked import fork_services
from mlxmesh_launcher.mesh import Mesh
from mlxmesh_launcher.options import MeshOptions
from mlxmesh_shared.process.forked import ForkedProcess
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.settings import MeshSettings, load_settings

IMAGES = Path(__file__).resolve().parent
COLUMNS, LINES = 80, 30
TRACE_COLUMNS = 120
STREAMS = 24
LOAD_S = 20.0
# Long enough for its keys and values to be kept, so that the picture shows prefix hits.
SYSTEM = "You tell long stories to children in simple words, and no story is like another. " * 4
PROMPTS = ("a fox", "the sea", "two friends", "a long road")


async def pictures(forked: Mapping[str, ForkedProcess]) -> None:
    """Starts a mesh with two replicas, gives it work, and takes each picture."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-pictures-") as directory:
        registry = open_registry(load_settings(MeshSettings, ["--data-dir", directory]))
        options = MeshOptions(Path(directory), grpc_port=0, replicas=2, stop_grace_s=5)
        mesh = Mesh(options, registry, forked)
        try:
            await mesh.start(lambda _: None)
            await _top(mesh.gateway)
            await _trace(mesh.gateway)
        finally:
            await mesh.stop(lambda _: None)
            await registry.close()


async def _top(gateway: str) -> None:
    async with MeshClient(gateway) as client:
        work = [asyncio.create_task(_keep_asking(client, number)) for number in range(STREAMS)]
        state = MeshState(client, gateway)
        following = asyncio.create_task(state.follow_events())
        try:
            await asyncio.sleep(LOAD_S)
            await state.refresh()
        finally:
            for task in (*work, following):
                task.cancel()
            await asyncio.gather(*work, following, return_exceptions=True)
    console = Console(record=True, width=COLUMNS, height=LINES, file=sys.stderr)
    console.print(frame(state.screen, LINES))
    _save(console, "top", title="mlxmesh top")


async def _trace(gateway: str) -> None:
    """Of one request to a mesh at rest."""
    async with MeshClient(gateway) as client:
        messages = [("user", "Tell me a long story about the moon.")]
        request_id = "moon"
        async for _ in client.generate("pocket", messages=messages, request_id=request_id):
            pass
        trace = await complete_trace(client, request_id)
    console = Console(record=True, width=TRACE_COLUMNS, file=sys.stderr)
    console.print(timeline(trace.spans))
    _save(console, "trace", title=f"mlxmesh trace {request_id}")


async def _keep_asking(client: MeshClient, number: int) -> None:
    """Streams one answer after another, each of a length of its own."""
    while True:
        about = PROMPTS[number % len(PROMPTS)]
        messages = [("system", SYSTEM), ("user", f"Tell me a long story about {about}.")]
        asked = client.generate("pocket", messages=messages, max_tokens=300)
        with suppress(MeshError):
            async for _ in asked:
                pass


def _save(console: Console, name: str, *, title: str) -> None:
    """As SVG that needs nothing from elsewhere: the fonts are the reader's own."""
    svg = console.export_svg(title=title, unique_id=name)
    IMAGES.mkdir(parents=True, exist_ok=True)
    (IMAGES / f"{name}.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    asyncio.run(pictures(fork_services()))
