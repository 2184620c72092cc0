"""The mesh beside other MLX servers: tokens/s and time to first token, on one machine, in one run.

    .venv/bin/python -m tests.bench.bench_peers [--rounds 5] [--limit-s 460] [--json FILE]

Each peer runs as shipped, and again given what our engine gives itself: float32 weights and
OpenBLAS. All stay up and take turns; every turn has prompts that nobody has seen before. A peer is
asked over its own HTTP streaming API, the mesh over gRPC; the reference is BatchGenerator in
process. New tokens are counted by the server's own `usage` and must be exactly those asked for;
time to first token runs from the moment all streams are opened to the first text of each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from tokenizers import Tokenizer

from mlxmesh_client import MeshClient
from tests.bench.bench_mesh import NEW_TOKENS, PROMPT_TOKENS, InProcess
from tests.bench.bench_model import write_model
from tests.bench.peers import contestants
from tests.bench.peers.catalogue import AS_SHIPPED, GIVEN_OURS, PEERS, VARIANTS, Peer, Variant
from tests.bench.peers.completions import Prompt
from tests.bench.peers.contestants import Contestant
from tests.bench.peers.install import PeerFailed, installed
from tests.bench.peers.processes import end_on_sigterm, running
from tests.bench.peers.prompts import text_prompt
from tests.bench.peers.report import document, rows, table, verdicts
from tests.bench.picture import draw_peers
from tests.bench.results import console, drawn, judged, write
from tests.bench.samples import Sample
from tests.bench.serving import MODEL, serving

WARM_UP_STREAMS = 8
TARGETS = {AS_SHIPPED.name: 5.0, GIVEN_OURS.name: 1.25}
"""How many times the best peer's tokens/s the mesh wants to reach, by variant of the peers."""

progress = Console(stderr=True)


def install(peers: Sequence[Peer]) -> dict[str, Path | PeerFailed]:
    """The folder of each peer's programs, or why there is none."""
    found: dict[str, Path | PeerFailed] = {}
    for peer in peers:
        progress.print(f"installing {peer.version}")
        try:
            found[peer.name] = installed(peer.name)
        except PeerFailed as failure:
            found[peer.name] = failure
    return found


async def enter_peer(
    stack: AsyncExitStack, peer: Peer, variant: Variant, programs: Path | PeerFailed, folder: Path
) -> Contestant:
    """The running peer, stopped with the stack; or one that only has a failure to show."""
    model = folder / variant.dtype / MODEL
    here = folder / f"{peer.name}, {variant.name}"
    try:
        if isinstance(programs, PeerFailed):
            raise programs
        port = await stack.enter_async_context(
            running(peer, variant.environment, programs=programs, model=model, folder=here)
        )
    except PeerFailed as failure:
        return Contestant(peer.name, variant.name, None, failure=str(failure))
    measure = contestants.peer(port, str(model), prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)
    return Contestant(peer.name, variant.name, measure)


async def enter_own(stack: AsyncExitStack, folder: Path) -> list[Contestant]:
    """The mesh at its defaults, and the reference in process."""
    model = folder / AS_SHIPPED.dtype / MODEL
    reference = InProcess(model)
    stack.callback(reference.close)
    mesh = stack.enter_context(serving(model))
    client = await stack.enter_async_context(MeshClient(mesh.address))

    async def in_process(prompts: Sequence[Prompt], seed: int) -> Sample:
        return await asyncio.to_thread(reference.measure, len(prompts), seed)

    return [
        Contestant("mlxmesh", "default", contestants.mesh(client, MODEL, new_tokens=NEW_TOKENS)),
        Contestant("BatchGenerator", "in process", in_process),
    ]


async def take_rounds(
    all_: Sequence[Contestant], streams: Sequence[int], rounds: int, *, folder: Path, end_s: float
) -> int:
    """Measure everybody by turns, another first in each round; returns the rounds made.

    Stops early when another round as long as the longest would end after `end_s`.
    """
    tokenizer = Tokenizer.from_file(str(folder / AS_SHIPPED.dtype / MODEL / "tokenizer.json"))

    def count_tokens(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    def prompts(count: int, seed: int) -> list[str]:
        seeds = (seed * 1000 + number for number in range(count))
        return [text_prompt(count_tokens, PROMPT_TOKENS, seed=each) for each in seeds]

    for contestant in all_:
        await contestant.take_turn(prompts(WARM_UP_STREAMS, 0), 0, keep=False)
    longest_s = 0.0
    for number in range(rounds):
        start_s = time.monotonic()
        if number and start_s + longest_s > end_s:
            return number
        progress.print(f"round {number + 1} of {rounds}")
        first = number % len(all_)
        for count in streams:
            seed = (number + 1) * 1000 + count
            work = prompts(count, seed)
            for contestant in (*all_[first:], *all_[:first]):
                await contestant.take_turn(work, seed)
        longest_s = max(longest_s, time.monotonic() - start_s)
    return rounds


async def run(args: argparse.Namespace) -> tuple[list[Contestant], int]:
    """Install, start, measure, stop; the mesh comes first, then the reference, then the peers."""
    end_on_sigterm()
    chosen = [peer for peer in PEERS if peer.name in args.peers]
    programs = install(chosen)
    end_s = time.monotonic() + args.limit_s
    async with AsyncExitStack() as stack:
        directory = tempfile.TemporaryDirectory(prefix="mlxmesh-peers-")
        folder = Path(stack.enter_context(directory))
        for variant in VARIANTS:
            write_model(folder / variant.dtype / MODEL, dtype=variant.dtype)
        progress.print("starting")
        peers = [
            await enter_peer(stack, peer, variant, programs[peer.name], folder)
            for variant in VARIANTS
            for peer in chosen
        ]
        all_ = [*await enter_own(stack, folder), *peers]
        made = await take_rounds(all_, args.streams, args.rounds, folder=folder, end_s=end_s)
    return all_, made


def report(all_: Sequence[Contestant], made: int, streams: Sequence[int]) -> dict[str, Any]:
    """Print the table, the targets and the failures; returns everything for the JSON."""
    measured = [each.measured() for each in all_]
    found = rows(measured, measured[0])
    targets = verdicts(found, TARGETS, streams=max(streams))
    about = {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "rounds": made,
        "peers": [peer.version for peer in PEERS],
    }
    out = console()
    out.print(f"{about['platform']}, {about['cores']} cores; medians of {made} rounds")
    out.print(table(found, streams))
    out.print(drawn("against the targets", judged(targets)))
    for each in measured:
        if each.failure:
            out.print(f"{each.name}, {each.variant}: {each.failure}", markup=False)
    return document(found, targets, about)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [peer.name for peer in PEERS]
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--peers", nargs="+", choices=names, default=names)
    parser.add_argument("--limit-s", type=float, default=460, help="no new round beyond this")
    parser.add_argument("--json", type=Path, help="write all figures and samples here")
    parser.add_argument("--picture", type=Path, help="draw the curves into this .svg or .png")
    args = parser.parse_args()
    all_, made = asyncio.run(run(args))
    everything = report(all_, made, args.streams)
    if args.json:
        write(args.json, json.dumps(everything, indent=2))
    if args.picture:
        draw_peers(everything, args.picture)


if __name__ == "__main__":
    main()
