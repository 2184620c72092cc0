"""`make demo`: the whole mesh in a temporary directory, one streamed answer, nothing left.

With `MODEL=smollm2` a real model answers, which is fetched the first time. With `GROUP=2` two
processes compute it together, each with some of its layers.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from mlxmesh_client import GenerateOptions, MeshClient
from mlxmesh_launcher import smollm2
from mlxmesh_launcher.forked import fork_services
from mlxmesh_launcher.mesh import Mesh
from mlxmesh_launcher.options import DEFAULT_MODEL, MeshOptions, ModelSource, bundled_models
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.process.forked import ForkedProcess
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.settings import MeshSettings, load_settings
from mlxmesh_shared.settings.sections.services import MAX_GROUP_SIZE


@dataclass(frozen=True)
class Demo:
    """Which model is asked what."""

    model: str
    question: str
    options: GenerateOptions = field(default_factory=GenerateOptions)
    fetch: Callable[[], Path] | None = None
    """Gets the model's GGUF file where it does not come with mlxmesh."""

    def sources(self, group_size: int) -> tuple[ModelSource, ...]:
        """What the mesh should load; empty for what it loads anyway."""
        if group_size == 1 and self.fetch is None:
            return ()
        if self.fetch is None:
            source = bundled_models()[self.model]
        else:
            source = ModelSource(name=self.model, file=self.fetch())
        group = {"group_size": group_size, "group_split": "pipeline"}
        return (replace(source, load=group if group_size > 1 else {}),)


DEMOS = {
    demo.model: demo
    for demo in (
        Demo(DEFAULT_MODEL, "Tell me a long story about a fox."),
        Demo(
            smollm2.NAME,
            "What is the capital of France? Answer in one sentence.",
            options={"temperature": 0},
            fetch=smollm2.smollm2,
        ),
    )
}


async def run_demo(
    demo: Demo, console: Console, forked: Mapping[str, ForkedProcess], group_size: int = 1
) -> int:
    """Start, stream, stop; returns the number of tokens that were streamed."""
    models = demo.sources(group_size)
    with tempfile.TemporaryDirectory(prefix="mlxmesh-demo-") as directory:
        settings = load_settings(MeshSettings, ["--data-dir", directory])
        registry = open_registry(settings)
        options = MeshOptions(data_dir=Path(directory), grpc_port=0, stop_grace_s=5, models=models)
        mesh = Mesh(options, registry, forked)
        try:
            with console.status("starting") as status:
                start = time.perf_counter()
                await mesh.start(status.update)
            services = len(mesh.processes.children)
            of_ranks = f" of {group_size} ranks" if group_size > 1 else ""
            console.print(
                f"[dim]mesh of {services} services and an engine{of_ranks} on {mesh.gateway}, "
                f"ready in {time.perf_counter() - start:.1f} s[/dim]"
            )
            return await _stream(demo, console, mesh.gateway)
        finally:
            with console.status("stopping") as status:
                await mesh.stop(status.update)
            await registry.close()


async def _stream(demo: Demo, console: Console, gateway: str) -> int:
    console.print(f"[bold]you:[/bold] {demo.question}\n[bold]{demo.model}:[/bold] ", end="")
    start = time.perf_counter()
    first_s, tokens = 0.0, 0
    async with MeshClient(gateway) as client:
        asked: GenerateOptions = {
            "messages": [("user", demo.question)],
            "max_tokens": 300,
            **demo.options,
        }
        async for event in client.generate(demo.model, **asked):
            first_s = first_s or time.perf_counter() - start
            tokens += len(event.token_ids)
            console.print(event.text, end="", markup=False, highlight=False)
    total_s = time.perf_counter() - start
    console.print(
        f"\n[dim]{tokens} tokens in {total_s:.2f} s ({tokens / total_s:.0f} tokens/s), "
        f"first after {first_s * 1000:.0f} ms[/dim]"
    )
    return tokens


def main() -> int:
    """Exit code 0 only when an answer was streamed."""
    console = Console()
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("model", nargs="?", choices=[*DEMOS], default=DEFAULT_MODEL)
    sizes = range(1, MAX_GROUP_SIZE + 1)
    parser.add_argument(
        "--group", type=int, choices=sizes, default=1, help="how many ranks compute it"
    )
    given = parser.parse_args()
    try:
        ran = run_demo(DEMOS[given.model], console, fork_services(), given.group)
        return 0 if asyncio.run(ran) else 1
    except MeshError as error:
        console.print(f"[red]demo failed:[/red] {error}", markup=True)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
