"""llama.cpp beside the mesh: SmolLM2-135M in 4 bit and in bfloat16, on one machine, in one run.

    .venv/bin/python -m tests.bench.bench_llama_cpp [--rounds 1] [--streams 1 8 32] [--json FILE]

The first run builds llama.cpp, 10 to 20 minutes on two cores. Its server runs the GGUF file as it
ships (Q4_1), and as Q4_0 and BF16 made from it. The mesh serves the same file imported as it is,
and in bfloat16. The reference is BatchGenerator in process, with float32 and OpenBLAS. All stay up
and take turns. Prompts are new token ids each time, sent over HTTP or gRPC; responses are greedy
and as long as asked for. Time to first token runs from the opening of all streams to the first text
of each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from mlxmesh.engine.v1.engine_pb2 import GetEngineInfoRequest
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh_client import MeshClient
from mlxmesh_launcher.smollm2 import smollm2
from mlxmesh_model.gguf.conversion import convert
from mlxmesh_model.gguf.weights import Dtype
from mlxmesh_shared.rpc.channels import open_channel
from tests.bench.bench_mesh import PROMPT_TOKENS, InProcess
from tests.bench.bench_model import prompts
from tests.bench.memory import read_bytes_per_s
from tests.bench.peers import contestants, llama_cpp
from tests.bench.peers.completions import Prompt
from tests.bench.peers.contestants import Contestant
from tests.bench.peers.install import PeerFailed
from tests.bench.peers.llama_cpp_build import built
from tests.bench.peers.llama_cpp_report import (
    BESIDE,
    BF16,
    FOUR_BIT,
    MESH,
    PEER,
    Side,
    compared,
    cpu_rows,
    traffic,
    verdicts,
)
from tests.bench.peers.processes import cpu_s, end_on_sigterm, running, started_for
from tests.bench.peers.report import document, table
from tests.bench.results import console, drawn, judged, machine, write
from tests.bench.samples import Sample
from tests.bench.serving import Mesh, serving

NEW_TOKENS = 48
WARM_UP_STREAMS = 2
TRIAL_STREAMS, TRIAL_LIMIT_S = 4, 30.0
TURN_LIMIT_S = 240.0
progress = Console(stderr=True)


@dataclass(frozen=True)
class Engine:
    """An engine of the mesh."""

    pid: int
    weights_bytes: int


async def enter_own(stack: AsyncExitStack, gguf: Path, folder: Path) -> list[Side]:
    """Both of ours in one mesh, and the reference in process."""
    for name, dtype in ((FOUR_BIT, None), (BF16, Dtype.BFLOAT16)):
        convert(gguf, folder / name, dtype, lambda done, total: None)
    mesh = stack.enter_context(serving(folder / FOUR_BIT, "--model", str(folder / BF16)))
    client = await stack.enter_async_context(MeshClient(mesh.address))
    engines = await engines_of(mesh)
    reference = InProcess(folder / BF16)
    stack.callback(reference.close)

    async def in_process(work: Sequence[Prompt], seed: int) -> Sample:
        return await asyncio.to_thread(reference.measure, len(work), seed, new_tokens=NEW_TOKENS)

    relays = (mesh.pids["gateway"], mesh.pids["generation"])
    own = [
        Side(
            contestant(MESH, name, contestants.mesh(client, name, new_tokens=NEW_TOKENS)),
            beside=name,
            weights_bytes=engines[name].weights_bytes,
            pids=(*relays, engines[name].pid),
        )
        for name in (FOUR_BIT, BF16)
    ]
    float32_bytes = 2 * (folder / BF16 / "model.safetensors").stat().st_size
    beside = contestant("BatchGenerator", "float32", in_process)
    return [*own, Side(beside, BF16, float32_bytes, (reference.pid,))]


def contestant(name: str, variant: str, measure: contestants.Measure) -> Contestant:
    """One side, which may take long for a turn."""
    return Contestant(name, variant, measure, limit_s=TURN_LIMIT_S)


async def engines_of(mesh: Mesh) -> dict[str, Engine]:
    """The engine of each model; says what it computes in."""
    found: dict[str, Engine] = {}
    for address, pid in mesh.engines.items():
        async with open_channel(address) as channel:
            info = await EngineServiceStub(channel).GetEngineInfo(GetEngineInfoRequest())
        progress.print(f"{info.model}: {info.dtype_note}; {info.blas}", markup=False)
        found[info.model] = Engine(pid, info.weights_bytes)
    return found


async def enter_llama_cpp(
    stack: AsyncExitStack, kind: str, gguf: Path, folder: Path, *, slots: int, threads: int
) -> Side:
    """llama.cpp's server on one type of the file. Raises PeerFailed."""
    programs = built()
    model = llama_cpp.as_type(gguf, kind, programs=programs, folder=folder)
    peer = llama_cpp.llama_cpp(slots=slots, threads=threads)
    here = folder / f"{peer.name}, {kind}"
    up = running(peer, {}, programs=programs, model=model, folder=here)
    port = await stack.enter_async_context(up)
    measure = contestants.peer(
        port,
        kind,
        prompt_tokens=PROMPT_TOKENS,
        new_tokens=NEW_TOKENS,
        extra=llama_cpp.ASK,
    )
    pids = started_for(port)
    return Side(contestant(PEER, kind, measure), BESIDE[kind], model.stat().st_size, pids)


async def best_threads(gguf: Path, folder: Path, choices: Sequence[int]) -> int:
    """The number of threads that serves llama.cpp best now: on busy cores, two are slower than one.

    Its threads wait for each other at every product, so that each loses what any of them loses.
    """
    speeds: dict[int, float] = {}
    work = prompts(TRIAL_STREAMS, PROMPT_TOKENS, seed=0)
    for threads in choices if len(choices) > 1 else ():
        async with AsyncExitStack() as stack:
            here = folder / f"trial on {threads}"
            side = await enter_llama_cpp(
                stack, llama_cpp.AS_IT_IS, gguf, here, slots=TRIAL_STREAMS, threads=threads
            )
            trial = replace(side.contestant, limit_s=TRIAL_LIMIT_S)
            await trial.take_turn(work, 0)
        for sample in trial.samples.get(TRIAL_STREAMS, ()):
            speeds[threads] = sample.tokens_per_second
            progress.print(f"llama.cpp on {threads} threads: {speeds[threads]:.1f} tokens/s")
    return max(speeds, key=lambda threads: speeds[threads], default=choices[0])


async def take_turns(all_: Sequence[Side], streams: Sequence[int], rounds: int) -> None:
    """Measure everybody by turns, another first in each round."""
    for each in all_:
        warm_up = prompts(WARM_UP_STREAMS, PROMPT_TOKENS, seed=0)
        await each.contestant.take_turn(warm_up, 0, keep=False)
    for number in range(1, rounds + 1):
        first = number % len(all_)
        for count in streams:
            progress.print(f"round {number} of {rounds}, {count} streams")
            seed = 1000 * number + count
            work = prompts(count, PROMPT_TOKENS, seed=seed)
            for each in (*all_[first:], *all_[:first]):
                await take_turn(each, work, seed)


async def take_turn(side: Side, work: Sequence[Prompt], seed: int) -> None:
    """Measure one side once more, with the CPU time that it took."""
    before_s = cpu_s(side.pids)
    await side.contestant.take_turn(work, seed)
    if not side.contestant.failure:
        ms = 1e3 * (cpu_s(side.pids) - before_s) / (len(work) * NEW_TOKENS)
        side.cpu_ms.setdefault(len(work), []).append(ms)


async def run(args: argparse.Namespace) -> tuple[list[Side], int]:
    """Build, start, measure, stop; returns llama.cpp's number of threads too.

    Raises PeerFailed when llama.cpp cannot be built or started.
    """
    end_on_sigterm()
    progress.print("building llama.cpp where it is not built yet")
    await asyncio.to_thread(built)
    gguf, slots = smollm2(), max(args.streams)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlxmesh-llama-")))
        threads = await best_threads(gguf, folder, args.threads)
        sides = await enter_own(stack, gguf, folder)
        for kind in BESIDE:
            sides.append(
                await enter_llama_cpp(stack, kind, gguf, folder, slots=slots, threads=threads)
            )
        await take_turns(sides, args.streams, args.rounds)
    return sides, threads


def report(
    sides: Sequence[Side], threads: int, thread_bytes_per_s: float, args: argparse.Namespace
) -> str:
    """Print the tables, the targets and the failures; returns everything as JSON."""
    found = compared(sides)
    targets, read = verdicts(found), traffic(sides, thread_bytes_per_s)
    out = console()
    out.print(f"{machine()}; {args.rounds} rounds, llama.cpp on {threads} threads")
    out.print(table(found, args.streams))
    costs = cpu_rows(sides, args.streams)
    for title, lines in (
        ("CPU ms of a new token, prefill included", costs),
        ("weights read at one stream", read),
        ("targets", judged(targets)),
    ):
        if lines:
            out.print(drawn(title, lines))
    for server, _ in found:
        if server.failure:
            out.print(f"{server.name}, {server.variant}: {server.failure}", markup=False)
    about = {
        "machine": machine(),
        "peer": llama_cpp.VERSION,
        "threads": threads,
        "read_bytes_per_s": thread_bytes_per_s,
        "traffic": [dict(row) for row in read],
        "cpu_ms": [dict(row) for row in costs],
    }
    return json.dumps(document(found, targets, about), indent=2)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each kind")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=sorted({1, os.cpu_count() or 1}),
        help="of llama.cpp; the best of them in a short trial",
    )
    parser.add_argument("--json", type=Path, help="write all figures and samples here")
    args = parser.parse_args()
    thread_bytes_per_s = read_bytes_per_s()
    try:
        sides, threads = asyncio.run(run(args))
    except PeerFailed as failure:
        raise SystemExit(f"llama.cpp: {failure}") from failure
    text = report(sides, threads, thread_bytes_per_s, args)
    if args.json:
        write(args.json, text)


if __name__ == "__main__":
    main()
