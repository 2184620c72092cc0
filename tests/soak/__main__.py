"""Runs a mesh of real processes under mixed load and faults for hours, and looks for what grows.

    make soak                            # two hours
    make soak SOAK="--minutes 15"        # shorter: slopes of a few MB per hour are then unclear
    .venv/bin/python -m tests.soak --minutes 120 --lines build/soak.jsonl --picture build/soak.svg
    .venv/bin/python -m tests.soak --judge build/soak.jsonl --picture build/soak.svg

It starts a mesh with the bundled model on two engines, a small embedding model, two generation
instances, two gateways, and the jobs service. Callers chat, ask for structured output and several
outputs, embed, submit jobs, cancel, read slowly and watch the console's live stream, by gRPC, the
APIs of OpenAI, Anthropic and KServe, and Connect; --tls has all of it over TLS. Meanwhile gateways,
engines, generation instances and workers are killed and frozen in turns, and halfway all processes
are restarted, one after the other. A call that loses its gateway is resumed or repeated through
the other one.

Each process's memory, descriptors, threads, asyncio tasks and the callers' latencies go into a
file of JSON lines. The slope of each figure is that of one process's life after its warm-up: the
median of the slopes between all pairs of samples, with its interval of 95 %. Only a slope whose
interval is above the limit is a miss, and only 20 minutes after a warm-up are judged: what caches
and logs keep, each within its limit, fills up before. --judge repeats the verdict on a file, also
on that of a run that was interrupted.

It stops by itself, and on Ctrl-C with a verdict of what it has seen. The exit status is 0 unless
the mesh did not start or there is nothing to judge; a missed limit is a finding.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from mlxmesh_client import MeshClient
from mlxmesh_shared.tls import CertificateFiles
from tests.bench.picture import draw
from tests.bench.results import show, write
from tests.chaos.mesh import ChaosMesh, Shape, running
from tests.fakes.encoder_models import VOCAB, write_encoder
from tests.fakes.encoder_tokenizers import bert_words
from tests.soak.faults import Faults
from tests.soak.load import ENCODER, MixedLoad
from tests.soak.report import judged, panels
from tests.soak.samples import Sampler, read_lines

SMALL_STORES = {
    "MLXMESH_ENGINE_PREFIX_CACHE_BYTES": str(8 * 2**20),
    "MLXMESH_ENGINE_CONSTRAINT_CACHE_BYTES": str(4 * 2**20),
    "MLXMESH_GATEWAY_KEPT_TRACE_BYTES": str(2 * 2**20),
    "MLXMESH_GENERATION_RETENTION_S": "30",
    "MLXMESH_GENERATION_RETAINED_BYTES": str(4 * 2**20),
}
"""Stores that are full after the warm-up, so that what grows then is a leak."""
COMMAND_TIMEOUT_S = 120.0
MIN_MINUTES = 1.0

progress = Console(stderr=True)


async def prepare(mesh: ChaosMesh, folder: Path) -> None:
    """Adds the embedding model and starts the jobs service."""
    encoder = write_encoder(folder / ENCODER, "bert")
    bert_words(encoder, VOCAB)
    for words in (
        ("register", str(encoder), "--name", ENCODER),
        ("jobs", "submit", "Hi", "--model", "pocket", "--max-tokens", "1", "--wait"),
    ):
        code, output = await mesh.mlxmesh(*words, timeout_s=COMMAND_TIMEOUT_S)
        if code:
            raise RuntimeError(f"mlxmesh {' '.join(words)} exited with {code}: {output[-500:]}")


async def soak(args: argparse.Namespace) -> None:
    """Fills the file of samples."""
    seconds = 60 * args.minutes
    shape = Shape(replicas=2, generations=2, gateways=2, environment=SMALL_STORES, tls=args.tls)
    with tempfile.TemporaryDirectory(prefix="mlxmesh-soak-") as folder:
        async with running(shape) as mesh, contextlib.AsyncExitStack() as stack:
            await prepare(mesh, Path(folder))
            tls_dir = mesh.data_dir / "tls" if args.tls else None
            load = MixedLoad(
                await mesh.instances("gateway"),
                tls_dir=tls_dir,
                pause_s=args.pause,
                seed=args.seed,
            )
            faults = Faults(mesh, lambda fault: progress.print(f"  {fault}", highlight=False))
            spared = await mesh.added("gateway")
            tls = CertificateFiles.of_role(tls_dir, "admin") if tls_dir else None
            client = await stack.enter_async_context(MeshClient(spared.address, tls=tls))
            await stack.enter_async_context(load)
            sampler = Sampler(
                args.lines,
                lambda: mesh.own_pids,
                client,
                lambda: {**load.taken(), "faults": faults.taken()},
            )
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(sampler.run(args.interval))]
                if args.fault_every:
                    work.append(tasks.create_task(faults.run(args.fault_every, seconds / 2)))
                await _wait(seconds)
                for task in work:
                    task.cancel()
            for (kind, status), count in sorted(load.ends.items()):
                progress.print(f"{kind}: {count} {status}", highlight=False)
            progress.print(f"repeated or resumed: {dict(load.repeated)}", highlight=False)


async def _wait(seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        progress.print(f"{left_s / 60:.0f} min left", highlight=False)
        await asyncio.sleep(min(60, left_s))


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=120, help="how long the load runs")
    parser.add_argument("--interval", type=float, default=5, help="seconds between two samples")
    parser.add_argument("--pause", type=float, default=1, help="seconds between calls of a kind")
    parser.add_argument(
        "--fault-every", type=float, default=120, help="seconds between faults; 0 for none"
    )
    parser.add_argument("--tls", action="store_true", help="between all processes and callers")
    parser.add_argument("--seed", type=int, default=1, help="decides the pauses")
    parser.add_argument("--lines", type=Path, default=Path("build/soak.jsonl"), help="the samples")
    parser.add_argument("--judge", type=Path, help="run nothing: judge the samples of this file")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--picture", type=Path, help="draw the curves into this .svg or .png")
    args = parser.parse_args(arguments)
    if args.minutes < MIN_MINUTES or args.interval <= 0 or args.pause < 0 or args.fault_every < 0:
        parser.error(
            f"--minutes must be at least {MIN_MINUTES:g}, --interval above 0, --pause and"
            " --fault-every 0 or more"
        )
    return args


def main() -> int:
    """Parse the options, run, print, write."""
    args = parsed()
    if args.judge:
        args.lines = args.judge
    else:
        args.lines.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(soak(args))
    lines = read_lines(args.lines)
    if len(lines) < 2:
        progress.print(f"{args.lines} has too few samples to judge")
        return 1
    findings = judged(lines)
    show(findings)
    if args.json:
        write(args.json, findings.to_json())
    if args.picture:
        draw(panels(lines), args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
